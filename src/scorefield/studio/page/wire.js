// The socket: jobs to the studio, frames from it; see wire.py for the format.

const KINDS = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array,
};
const listeners = new Set();
const queueListeners = new Set();
const jobs = new Map();
let socket = null;
let last = 0;

/** Call a function with true and false as the connection opens and breaks. */
export function watch(listener) {
  listeners.add(listener);
}

/** Call a function with the number of other pages' computations that come before this page's. */
export function watchQueue(listener) {
  queueListeners.add(listener);
}

function tellQueue() {
  const waits = [...jobs.values()].map((job) => job.ahead).filter(Boolean);
  const ahead = waits.length ? Math.min(...waits) : 0;
  queueListeners.forEach((listener) => listener(ahead));
}

/** Return an address of the studio, with the run that this page has opened by its own address. */
export const ofRun = (path) => `${path}${location.search}`;

/** Connect, or return the connection. */
export function connect() {
  if (socket && socket.readyState <= WebSocket.OPEN) return socket;
  const own = socket = new WebSocket(new URL(ofRun("ws"), location.href).href.replace(/^http/, "ws"));
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", (event) => receive(event.data));
  socket.addEventListener("open", () => listeners.forEach((listener) => listener(true)));
  socket.addEventListener("close", (event) => {
    const message = event.reason || "The connection to the studio is lost: is it still running?";
    for (const [id, job] of jobs) {
      if (job.socket !== own) continue;
      jobs.delete(id);
      job.status?.({ id, status: "error", message });
    }
    tellQueue();
    if (own === socket) listeners.forEach((listener) => listener(false));
  });
  return socket;
}

/**
 * Start a job. `frame(header, arrays)` may return a promise; the next frames wait for it. Once
 * `signal` is aborted, the job ends and nothing more of it is reported.
 */
export function run(job, settings, { frame, status, signal } = {}) {
  if (signal?.aborted) return { cancel() {} };
  const id = ++last;
  const cancel = () => jobs.has(id) && send({ id, cancel: true });
  jobs.set(id, { frame, status, socket: connect() });
  signal?.addEventListener("abort", () => {
    cancel();
    if (jobs.delete(id)) tellQueue();
  });
  send({ id, job, settings });
  return { cancel };
}

/** Return the header and the arrays of a frame. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  let offset = 4 + length;
  for (const { name, dtype, shape } of header.arrays) {
    const size = shape.reduce((a, b) => a * b, 1);
    arrays[name] = Object.assign(new KINDS[dtype](buffer, offset, size), { shape });
    offset += Math.ceil(arrays[name].byteLength / 8) * 8;
  }
  return [header, arrays];
}

function send(message) {
  const open = connect();
  const text = JSON.stringify(message);
  if (open.readyState === WebSocket.OPEN) open.send(text);
  else open.addEventListener("open", () => open.send(text), { once: true });
}

async function receive(data) {
  if (typeof data === "string") {
    const message = JSON.parse(data);
    const job = jobs.get(message.id);
    if (["done", "cancelled", "error"].includes(message.status)) jobs.delete(message.id);
    else if (job) job.ahead = message.ahead;
    tellQueue();
    job?.status?.(message);
    return;
  }
  const [header, arrays] = unpack(data);
  try {
    await jobs.get(header.id)?.frame?.(header, arrays);
  } finally {
    if (socket.readyState === WebSocket.OPEN) send({ id: header.id, ack: header.frame });
  }
}
