
// Plays a recording. What is in the rings at a step follows from the steps before it: `applied` changes a state, step by
// step, and states are kept now and then so that no step is far from one. Steps count from 0 here and from 1 on the page.

const recording = dataOfPage();
const steps = recording.steps.map(([at, side, what, queue, text, changes]) => ({
  at, side: recording.sides[side], what: recording.whats[what], queue, text: Number(text), changes,
}));
const texts = recording.texts.map((text) => text.split("\n"));
const requestOf = requestsBySteps();
const isRecorded = (what) => recording.whats.includes(what);
const queues = [...new Set(steps.map((step) => step.queue))].sort((one, other) => one - other);

const NO_QUEUE = -1;
const APART = Math.max(4096, Math.ceil(steps.length / 16)); // steps between two states that are kept
const ROW = 26; // the height of a row in the list of steps, as in the style sheet
const LARGEST = 0x8000; // entries of a queue (VIRTIO 1.4, 2.7)
const F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4; // flags of a descriptor (VIRTIO 1.4, 2.7.5)

/** Return for each step the number of the request that it is about, -1 where there is none. */
function requestsBySteps() {
  const found = new Int32Array(recording.steps.length).fill(-1);
  recording.requests.forEach(([, , ...stages], request) => {
    for (const step of stages) if (step >= 0 && found[step] < 0) found[step] = request;
  });
  return found;
}

/** Return the class, and so the colour, of who did something. */
function colourOf(step) {
  if (step.what === "message") return "socket";
  return { driver: "driver", device: "device", "front-end": "driver", "back-end": "device" }[step.side] ?? "recorder";
}

// What is in the rings.

function newQueue(changes = {}) {
  const position = changes.position ?? 0;
  return {
    size: changes.size ?? 0,
    changes,
    table: new Map(), // by index of the descriptor: address, length, flags, next, head
    stages: new Map(), // by head: what the request has reached
    available: { index: position, begin: position, slots: new Map(), taken: isRecorded("pop") ? position : null, wish: null },
    used: { index: position, begin: position, pending: 0, slots: new Map(), reaped: isRecorded("reap") ? position : null, wish: null },
    changed: new Set(),
    kicks: 0,
    interrupts: 0,
  };
}

const next16 = (index, by = 1) => (index + by) & 0xffff;
const behind16 = (index, other) => (other - index) & 0xffff; // how far `index` is behind `other`
const slotOf = (queue, index) => (queue.size ? index % queue.size : index);

function describe(queue, { chain, head }) {
  let inTable = false; // descriptors behind an indirect one are of another table
  for (const [index, address, length, flags, next] of chain) {
    if (!inTable && index < Math.min(queue.size, LARGEST)) {
      queue.table.set(index, { address, length, flags, next, head });
      queue.changed.add(`descriptor ${index}`);
    }
    inTable ||= Boolean(flags & F_INDIRECT);
  }
  queue.stages.set(head, "driver's");
}

function makeAvailable(queue, { index, heads }) {
  const ring = queue.available;
  heads.forEach((head, place) => {
    const at = next16(index, place - heads.length);
    ring.slots.set(slotOf(queue, at), head);
    queue.stages.set(head, "device's");
    queue.changed.add(`available ${at}`);
  });
  ring.index = index;
}

function take(queue, { head }) {
  const ring = queue.available;
  queue.changed.add(`available ${ring.taken}`);
  ring.taken = next16(ring.taken);
  queue.stages.set(head, "popped");
}

function answer(queue, { head, written }) {
  const ring = queue.used;
  const at = next16(ring.index, ring.pending);
  ring.slots.set(slotOf(queue, at), [head, written]);
  ring.pending += 1;
  queue.changed.add(`used ${at}`);
  queue.stages.set(head, "answered");
}

function publish(queue, { index }) {
  queue.used.index = index;
  queue.used.pending = 0;
  queue.changed.add("used index");
}

function reap(queue, { head }) {
  const ring = queue.used;
  queue.changed.add(`used ${ring.reaped}`);
  ring.reaped = next16(ring.reaped);
  queue.stages.delete(head);
  for (const [index, descriptor] of queue.table) if (descriptor.head === head) queue.table.delete(index);
}

function suppress(queue, changes, step) {
  (step.side === "driver" ? queue.available : queue.used).wish = changes;
}

const EFFECTS = {
  descriptors: describe,
  available: makeAvailable,
  pop: take,
  used: answer,
  used_index: publish,
  reap,
  suppression: suppress,
  kick: (queue) => { queue.kicks += 1; },
  interrupt: (queue) => { queue.interrupts += 1; },
};

const newState = () => ({ step: -1, queues: new Map(), messages: 0, shown: NO_QUEUE });

/** Change a state by the step that follows. */
function applied(state) {
  state.step += 1;
  const step = steps[state.step];
  if (step.what === "message") state.messages += 1;
  if (step.queue === NO_QUEUE) return state;
  state.shown = step.queue;
  if (step.what === "queue" || !state.queues.has(step.queue)) {
    state.queues.set(step.queue, newQueue(["queue", "resumed"].includes(step.what) ? step.changes : {}));
  }
  const queue = state.queues.get(step.queue);
  queue.changed.clear();
  EFFECTS[step.what]?.(queue, step.changes, step);
  return state;
}

let state = newState();
const kept = [newState()];

/** Return the state behind a step. */
function stateAt(number) {
  if (number < state.step || number - state.step > APART) {
    const last = kept.findLast((candidate) => candidate.step <= number);
    if (number < state.step || last.step > state.step) state = structuredClone(last);
  }
  while (state.step < number) {
    applied(state);
    if ((state.step + 1) % APART === 0 && kept.at(-1).step < state.step) kept.push(structuredClone(state));
  }
  return state;
}
