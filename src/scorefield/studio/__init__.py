"""The studio: a page over a trained model, or over closed-form mixtures, in the browser.

    guard      who may talk: token, Host, Origin, size of bodies
    server     addresses, and the socket over which jobs and frames travel
    wire       the format of messages and frames
    work       one computation at a time, in one thread
    jobs       the jobs by name: of the plane, of pictures and of restorations
    code       the same as a job, as a command and as Python
    trainings  runs on disk, and trainings in processes of their own
    page/      the page: plain modules of JavaScript, without a build step

Nothing imports the studio except its command.
"""

from .server import make_app, serve

__all__ = ["make_app", "serve"]
