"""One computation at a time, in one thread, and the frames of it that a page can take.

A page has at most `MAX_UNANSWERED` frames under way; meanwhile only the newest waits, so that a
slow page sees fewer frames, not older ones. The particles of the plane and the samples of images
are frames marked `keep`: the slider, the path of a sample, the replay and the address lead back to
each of them, so that none may be skipped because a page was slow. A job that is `MAX_AHEAD` of them
ahead waits for the page, which may be hidden or asleep, and the page is never more than
`MAX_UNANSWERED + MAX_AHEAD` of them behind.

A job that is cancelled ends where it next yields. One step of some samplers takes many evaluations
of the score, and a particle filter first draws a path of noise, so that both are `stoppable`.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from threading import Condition, Thread, local
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

import torch

from .wire import Frame, pack

MAX_UNANSWERED = 2
MAX_AHEAD = 4
MAX_WAITING = 8
"""Jobs of one page that may wait."""
PATIENCE = 20.0
"""Seconds that a job waits for a page that takes no frames, while another page waits."""
LOG = logging.getLogger("scorefield.studio")

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")
Context = TypeVar("Context")
Job: TypeAlias = Callable[[Context, Mapping[str, Any]], Iterable[Frame | None]]
"""A generator of frames; it may yield None where it can be cancelled."""


class Task:
    """A job of a page, whose `context` it works with, and what is still to be sent of it."""

    def __init__(self, number: int, job: str, settings: Mapping[str, Any], page: Any) -> None:
        self.number, self.job, self.settings, self.page = number, job, settings, page
        self.cancelled = self.over = False
        self._changed = Condition()
        self._waiting = deque[tuple[str | bytes, bool]]()  # messages, and True for those to keep
        self._unanswered = set[int]()
        self._frames = 0

    def say(self, status: str, **fields: Any) -> None:
        """Send a status, after the frames before it."""
        text = json.dumps({"id": self.number, "status": status, **fields})
        with self._changed:
            if status == "queued":  # a page that takes nothing finds its newest place
                self._waiting.clear()
            self.over = status in ("done", "cancelled", "error")
            self._waiting.append((text, True))
        self.page.wake()

    def put(self, frame: Frame) -> None:
        """Send a frame in place of one that still waits."""
        keep = bool(frame.header.get("keep"))
        self._frames += 1
        content = pack(frame, self.number, self._frames)
        with self._changed:
            self._waiting = deque(item for item in self._waiting if item[1])
            self._waiting.append((content, keep))
        self.page.wake()

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until the page has taken enough frames; return False if it takes longer."""
        with self._changed:
            return self._changed.wait_for(self._has_room, seconds)

    def _has_room(self) -> bool:
        return self.cancelled or sum(keep for _, keep in self._waiting) < MAX_AHEAD

    def take(self) -> str | bytes | None:
        """Return the next message that the page can take."""
        with self._changed:
            if not self._waiting:
                return None
            content, _ = self._waiting[0]
            if isinstance(content, bytes):
                if len(self._unanswered) >= MAX_UNANSWERED:
                    return None
                header = content[4 : 4 + int.from_bytes(content[:4], "little")]
                self._unanswered.add(json.loads(header)["frame"])
            self._waiting.popleft()
            self._changed.notify_all()
            return content

    def is_sent(self) -> bool:
        """Return True if nothing will follow."""
        with self._changed:
            return self.over and not self._waiting

    def acknowledge(self, frame: int) -> None:
        """Note that the page has drawn a frame."""
        with self._changed:
            self._unanswered.discard(frame)
        self.page.wake()

    def cancel(self) -> None:
        """End the job at its next step; frames that wait are dropped."""
        with self._changed:
            self.cancelled = True
            self._waiting = deque(item for item in self._waiting if isinstance(item[0], str))
            self._changed.notify_all()


class Cancelled(Exception):
    """The job of this thread was cancelled."""


CURRENT = local()
"""Has the task of a thread while that computes."""


def stop_if_cancelled() -> None:
    """End the job that runs in this thread if it was cancelled."""
    task: Task | None = getattr(CURRENT, "task", None)
    if task is not None and task.cancelled:
        raise Cancelled


def stoppable(function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
    """Return the function, which ends a job that was cancelled in place of its next call."""

    def call(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Result:
        stop_if_cancelled()
        return function(*args, **kwargs)

    return call


class Worker(Generic[Context]):
    """The thread in which jobs run one after another."""

    def __init__(self, jobs: Mapping[str, Job[Context]]) -> None:
        self.jobs = jobs
        self._changed = Condition()
        self._queue = list[Task]()
        self._closed = False
        self._running: Task | None = None
        self._thread = Thread(target=self._work, name="studio", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Start a job, or put it into the queue."""
        with self._changed:
            if sum(other.page is task.page for other in self._queue) >= MAX_WAITING:
                task.say("error", message=f"{MAX_WAITING} computations of this page wait already")
                return
            self._queue.append(task)
            if self._running or len(self._queue) > 1:
                self._tell_place(task)
            self._changed.notify_all()

    def cancel(self, task: Task) -> None:
        """End a job, whether it runs or waits."""
        task.cancel()
        with self._changed:
            if task in self._queue:
                self._queue.remove(task)
                task.say("cancelled")
                self._tell_places()

    def close(self) -> None:
        """End all jobs and the thread."""
        with self._changed:
            self._closed = True
            tasks = [*self._queue, *filter(None, [self._running])]
            self._queue.clear()
            self._changed.notify_all()
        for task in tasks:
            task.cancel()
        self._thread.join()

    def _tell_places(self) -> None:
        for task in self._queue:
            self._tell_place(task)

    def _tell_place(self, task: Task) -> None:
        """Say how many computations of other pages come first; those of its own do not matter."""
        before = [*filter(None, [self._running]), *self._queue[: self._queue.index(task)]]
        task.say("queued", ahead=sum(other.page is not task.page for other in before))

    def _work(self) -> None:
        with torch.no_grad():
            while True:
                with self._changed:
                    self._running = None
                    self._changed.wait_for(lambda: self._closed or self._queue)
                    if self._closed:
                        return
                    task = self._running = self._queue.pop(0)
                    self._tell_places()
                self._compute(task)
                del task  # with its page, settings and frames

    def _compute(self, task: Task) -> None:
        """Run a job to its end, or until it is cancelled."""
        CURRENT.task = task
        task.say("running")
        try:
            if task.job not in self.jobs:
                raise ValueError(f"job {task.job!r:.80} does not exist")
            frames = iter(self.jobs[task.job](task.page.context, task.settings))
            with closing(frames):  # type: ignore[type-var]
                for frame in frames:
                    if task.cancelled:
                        break
                    if frame is not None:
                        task.put(frame)
                        self._wait_for_page(task)
        except Cancelled:
            task.say("cancelled")
        except (ValueError, TypeError, OSError, ImportError) as error:
            task.say("error", message=str(error))
        except Exception:
            LOG.exception("%s failed", task.job)
            task.say("error", message="This is a fault of the studio; its terminal shows where")
        else:
            task.say("cancelled" if task.cancelled else "done")
        finally:
            CURRENT.task = None

    def _wait_for_page(self, task: Task) -> None:
        """Wait for a slow or a hidden page, but not for long if another one waits."""
        while not task.wait_for_room(PATIENCE):
            if any(other.page is not task.page for other in self._queue):
                raise TimeoutError(
                    f"The page has taken no frame for {PATIENCE:.0f} s, and another one waits"
                )
