// One job for one purpose: what an older one still sends is ignored.

/** Return {start, cancel, forget}: the end of a job that is cancelled is reported, of a forgotten one nothing. */
export function latest(run) {
  let job = null;
  let mine = null;
  const forget = () => { job?.cancel(); mine = null; };
  return {
    start(name, settings, { frame, status }) {
      forget();
      const own = mine = {};
      const guard = (call) => (...values) => (own === mine ? call?.(...values) : undefined);
      job = run(name, settings, { frame: guard(frame), status: guard(status) });
    },
    cancel: () => job?.cancel(),
    forget,
  };
}
