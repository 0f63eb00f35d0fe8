
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
  queue.stages.set(head, "device's, popped");
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

// Which steps are stepped through.

let visible = steps.map((_, number) => number); // their numbers
let place = 0; // which of them is shown
const current = () => visible[place] ?? 0;

/** Return the place of a step among the visible ones, or of the last one before it. */
function placeOf(number) {
  let low = 0, high = visible.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (visible[middle] <= number) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

function filterSteps(chosen) {
  const number = current();
  visible = steps.map((_, at) => at).filter((at) => chosen === "all" || steps[at].queue === Number(chosen));
  byId("slider").max = Math.max(1, visible.length);
  drawOverview();
  sizeList();
  goTo(placeOf(number));
}

function fillFilter() {
  const filter = byId("filter");
  filter.append(make("option", { value: "all" }, "everything"));
  for (const queue of queues) {
    filter.append(make("option", { value: queue }, queue === NO_QUEUE ? "the socket" : `queue ${queue}`));
  }
  filter.addEventListener("change", () => filterSteps(filter.value));
}

// Moving. Whatever moves sets the place; what is shown follows with the next frame.

let isDue = false;

function goTo(where) {
  place = Math.min(Math.max(0, where), Math.max(0, visible.length - 1));
  byId("slider").value = place + 1;
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    show();
  });
}

/** Go to the beginning of the next request, or of one before. */
function goToRequest(direction) {
  const first = (number) => steps[number].what === "descriptors";
  for (let at = place + direction; at >= 0 && at < visible.length; at += direction) {
    if (first(visible[at])) return goTo(at);
  }
  return undefined;
}

function fromFragment() {
  const found = /^#step=(\d{1,9})$/.exec(location.hash);
  if (!found || !steps.length) return;
  const number = Math.min(Number(found[1]), steps.length) - 1;
  if (number !== current()) {
    if (!visible.includes(number)) {
      byId("filter").value = "all";
      filterSteps("all");
    }
    goTo(placeOf(number));
  }
}

let fragmentTimer = 0;

/** Put the step into the address, once it stays: browsers allow this only so often. */
function toFragment() {
  clearTimeout(fragmentTimer);
  fragmentTimer = setTimeout(() => {
    try {
      history.replaceState(null, "", `#step=${current() + 1}`);
    } catch {
      // Somewhere an address may not change; the page goes on without.
    }
  }, 250);
}

let playTimer = 0;

function play(goes) {
  clearInterval(playTimer);
  playTimer = 0;
  if (goes) {
    if (place === visible.length - 1) goTo(0);
    playTimer = setInterval(() => (place < visible.length - 1 ? goTo(place + 1) : play(false)), Number(byId("speed").value));
  }
  byId("play").textContent = goes ? "❚❚ Pause" : "▶ Play";
  byId("said").setAttribute("aria-live", goes ? "off" : "polite"); // nobody can listen to all of it
}

// Showing one step.

function show() {
  if (!steps.length) {
    byId("now-title").textContent = "Nothing is recorded.";
    return;
  }
  const number = current();
  const step = steps[number];
  const at = stateAt(number);
  showStep(step, number);
  showSides(at, step);
  showMemory(at, step);
  showRequest(step, number);
  showList();
  byId("playhead").style.left = `${visible.length > 1 ? (100 * place) / (visible.length - 1) : 0}%`;
  toFragment();
}

const inMicroseconds = (nanoseconds) => (nanoseconds / 1000).toFixed(1).replace(/\B(?=(\d{3})+(?!\d))/g, " ");
const whoseOf = (step) => `${step.side}${step.queue === NO_QUEUE ? "" : ` · queue ${step.queue}`}`;

function showStep(step, number) {
  const [sentence, ...details] = texts[step.text];
  const [what, explanation] = recording.kinds[step.what];
  byId("now").className = `card ${colourOf(step)}`;
  byId("who").textContent = whoseOf(step);
  const before = place > 0 ? ` (+${duration(step.at - steps[visible[place - 1]].at)})` : "";
  byId("when").textContent = `${inMicroseconds(step.at)} µs${before}`;
  byId("now-title").textContent = sentence;
  byId("details").replaceChildren(...details.map((line) => make("li", line.includes("WRONG") ? { class: "bad" } : {}, line.trim())));
  byId("meaning").textContent = explanation || `${what[0].toUpperCase()}${what.slice(1)}.`;
  const of = visible.length === steps.length ? "" : `, ${count(place + 1)} of ${count(visible.length)} shown`;
  byId("position").textContent = `Step ${count(number + 1)} of ${count(steps.length)}${of}`;
  byId("slider").setAttribute("aria-valuetext", `step ${number + 1} of ${steps.length}`);
  for (const id of ["first", "back"]) byId(id).disabled = place === 0;
  for (const id of ["last", "next"]) byId(id).disabled = place === visible.length - 1;
}

/** Return when a side wants to be notified, in words. */
function wish(wanted) {
  if (wanted === null) return "not said yet";
  if (wanted.event !== undefined) return `when the index passes ${wanted.event}`;
  return wanted.flags & 1 ? "not now" : "yes";
}

function facts(id, rows) {
  byId(id).replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

function showSides(at, step) {
  const queue = at.queues.get(at.shown);
  const side = colourOf({ ...step, what: "" });
  byId("driver-side").classList.toggle("active", side === "driver");
  byId("device-side").classList.toggle("active", side === "device");
  facts("driver-facts", queue ? [
    ["available index", queue.available.index],
    ["answers taken up to", queue.used.reaped ?? "not recorded"],
    ["wants interrupts", wish(queue.available.wish)],
  ] : []);
  facts("device-facts", queue ? [
    ["requests popped up to", queue.available.taken ?? "not recorded"],
    ["used index", queue.used.index],
    ["wants kicks", wish(queue.used.wish)],
  ] : []);
  byId("wires").replaceChildren(
    wire("socket", step.what === "message", side === "device" ? "←" : "→", at.messages, "socket"),
    wire("kick", step.what === "kick", "→", queue?.kicks ?? 0, "driver"),
    wire("interrupt", step.what === "interrupt", "←", queue?.interrupts ?? 0, "device"),
  );
}

function wire(name, isActive, arrow, number, colour) {
  const often = make("span", { class: "mono" }, count(number), make("span", { class: "unseen" }, " so far"));
  const label = make("span", {}, arrow === "←" ? `${arrow} ${name}` : `${name} ${arrow}`);
  return make("li", { class: `wire ${colour}${isActive ? " active" : ""}` }, label, often);
}

// The three areas.

function showMemory(at, step) {
  const queue = at.queues.get(at.shown);
  byId("memory-title").textContent = queue ? `Shared memory: queue ${at.shown}, ${plural(queue.size, "entry").replace("entrys", "entries")}` : "Shared memory: no queue yet";
  for (const id of ["table", "available", "used"]) byId(id).replaceChildren();
  for (const id of ["table-about", "available-about", "used-about"]) byId(id).textContent = "";
  if (!queue) return;
  const changed = step.queue === at.shown ? queue.changed : new Set();
  const { descriptor_area: table, driver_area: driver, device_area: device } = queue.changes;
  const place = (address) => (address ? `at ${address}, ` : "");
  byId("table-about").textContent = `${place(table)}written by the driver`;
  byId("available-about").textContent = `${place(driver)}written by the driver; index ${queue.available.index}`;
  byId("used-about").textContent = `${place(device)}written by the device; index ${queue.used.index}`;
  showTable(queue, changed, step);
  showAvailable(queue, changed);
  showUsed(queue, changed);
}

/** Fill an area with a table; a row is a class and its cells, of which the first is its header. */
function area(id, caption, heads, rows, more = 0) {
  const row = ([kind, ...cells]) => make("tr", { class: kind || null },
    ...cells.map((cell, at) => make(at ? "td" : "th", at ? { class: typeof cell === "number" ? "number" : null } : { scope: "row" },
      ...(at ? [] : [make("span", { class: "mark", "aria-hidden": "true" }, kind === "changed" ? "▸" : "")]), typeof cell === "number" ? count(cell) : cell)));
  const table = make("table", {},
    make("caption", { class: "unseen" }, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", class: head === "bytes" ? "number" : null }, head)))),
    make("tbody", {}, ...rows.map(row)));
  byId(id).replaceChildren(rows.length ? table : make("p", { class: "quiet small" }, "empty"));
  if (more > 0) byId(id).append(make("p", { class: "quiet small" }, `and ${count(more)} more`));
}

const ROWS = 8;

function showTable(queue, changed, step) {
  const isOf = (descriptor) => descriptor.head === step.changes.head;
  const all = [...queue.table].sort(([one], [other]) => one - other);
  const chosen = [...all.filter(([, descriptor]) => isOf(descriptor)), ...all.filter(([, descriptor]) => !isOf(descriptor))]
    .slice(0, ROWS).sort(([one], [other]) => one - other);
  area("table", "Descriptor table", ["index", "address", "bytes", "device", "next", "whose"], chosen.map(([index, descriptor]) => [
    changed.has(`descriptor ${index}`) ? "changed" : "",
    String(index), descriptor.address, descriptor.length, useOf(descriptor.flags),
    descriptor.flags & F_NEXT ? String(descriptor.next) : "-",
    queue.stages.get(descriptor.head) ?? "free",
  ]), all.length - chosen.length);
}

function useOf(flags) {
  if (flags & F_INDIRECT) return "a table";
  return flags & F_WRITE ? "writes" : "reads";
}

/** Return the indexes of a ring that are shown: the last ones, and `more` that follow. */
function lastIndexes(ring, more) {
  const number = Math.min(ROWS - more, behind16(ring.begin, ring.index));
  return Array.from({ length: number + more }, (_, at) => next16(ring.index, at - number));
}

function showAvailable(queue, changed) {
  const ring = queue.available;
  const state = (index) => {
    if (ring.taken === null) return "available";
    return behind16(index, ring.taken) - 1 < 0x8000 && index !== ring.taken ? "popped" : "waiting";
  };
  const rows = lastIndexes(ring, 0).map((index) => [
    changed.has(`available ${index}`) ? "changed" : "", String(index), String(slotOf(queue, index)),
    String(ring.slots.get(slotOf(queue, index)) ?? "?"), state(index),
  ]);
  area("available", "Available ring, the last entries", ["index", "slot", "head", ""], rows);
}

function showUsed(queue, changed) {
  const ring = queue.used;
  const state = (index) => {
    if (behind16(ring.index, index) < ring.pending) return "not yet announced";
    if (ring.reaped === null) return "announced";
    return behind16(index, ring.reaped) - 1 < 0x8000 && index !== ring.reaped ? "taken" : "waiting";
  };
  const rows = lastIndexes(ring, Math.min(ring.pending, ROWS)).map((index) => {
    const [head, written] = ring.slots.get(slotOf(queue, index)) ?? ["?", "?"];
    const isChanged = changed.has(`used ${index}`) || (changed.has("used index") && state(index) !== "taken" && next16(index) === ring.index);
    return [isChanged ? "changed" : "", String(index), String(slotOf(queue, index)), String(head), written, state(index)];
  });
  area("used", "Used ring, the last entries", ["index", "slot", "head", "bytes", ""], rows);
}

// A request, or what else has bytes.

const LIFE = {
  describe: "described", ask: "available", take: "popped", answer: "answered", publish: "used index stored", reap: "answer taken",
};

function showRequest(step, number) {
  const request = requestOf[number];
  byId("request").hidden = request < 0 && !step.changes.hex;
  if (request < 0) {
    byId("request-title").textContent = step.what === "message" ? "The message's payload" : "Its bytes";
    byId("life").replaceChildren();
    byId("buffers").replaceChildren(...(step.changes.hex ? [buffer("Payload", step.changes)] : []));
    return;
  }
  const [queue, head, ...stages] = recording.requests[request];
  byId("request-title").textContent = `Request ${count(request + 1)} of ${count(recording.requests.length)}: head ${head} on queue ${queue}`;
  const begin = steps[stages[0]].at;
  byId("life").replaceChildren(...recording.stages.map((stage, at) => stageOf(stage, stages[at], begin, number)));
  const told = (stage) => (stages[recording.stages.indexOf(stage)] >= 0 && stages[recording.stages.indexOf(stage)] <= number
    ? steps[stages[recording.stages.indexOf(stage)]].changes : null);
  const asked = told("describe"), answered = told("answer");
  byId("buffers").replaceChildren(
    buffer("The device may read", asked),
    answered ? buffer("The device wrote", answered) : noAnswer(asked.room));
}

function stageOf(stage, at, begin, number) {
  if (at < 0) return make("li", { class: "quiet" }, `${LIFE[stage]}: not recorded`);
  const link = make("a", { href: `#step=${at + 1}` }, LIFE[stage]);
  const kind = `${colourOf(steps[at])}${at <= number ? " past" : ""}${at === number ? " current" : ""}`;
  return make("li", { class: kind, "aria-current": at === number ? "step" : null }, link, ` +${duration(steps[at].at - begin)}`);
}

function buffer(title, { hex, bytes, late }) {
  const shown = hex.length / 2;
  const rest = bytes > shown ? [make("p", { class: "quiet small" }, `and ${plural(bytes - shown, "byte")} more`)] : [];
  const doubt = late ? [make("p", { class: "quiet small" }, "Seen late: it may be what followed.")] : [];
  const dump = make("pre", { tabindex: "0", role: "group", "aria-label": `${title}, in hexadecimal` }, dumpRows(hex).join("\n"));
  return make("div", {}, make("h3", {}, `${title}: ${plural(bytes, "byte")}`), ...(hex ? [dump] : []), ...rest, ...doubt);
}

function noAnswer(room) {
  return make("div", {}, make("h3", {}, "The device wrote: nothing yet"), make("p", { class: "quiet small" }, `There is room for ${plural(room, "byte")}.`));
}

// The list of all steps: only those in sight are elements.

const sizeList = () => { byId("list-rows").style.height = `${visible.length * ROW}px`; };

/** Show the list around the current step. */
function showList() {
  const list = byId("list");
  const top = place * ROW;
  if (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight) {
    list.scrollTop = Math.max(0, top - list.clientHeight / 3);
  }
  fillList();
}

function fillList() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(visible.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const rows = [];
  for (let at = first; at < last; at += 1) rows.push(listRow(at));
  if (place < first || place >= last) rows.push(listRow(place));
  byId("list-rows").replaceChildren(...rows);
  list.setAttribute("aria-activedescendant", `step-${current() + 1}`);
}

function listRow(at) {
  const number = visible[at];
  const step = steps[number];
  const queue = step.queue === NO_QUEUE || queues.length <= 2 ? "" : ` q${step.queue}`;
  const row = make("div", {
    id: `step-${number + 1}`, role: "option", class: `step ${colourOf(step)}`, "aria-selected": String(at === place),
    "aria-posinset": at + 1, "aria-setsize": visible.length,
  }, make("span", { class: "at" }, inMicroseconds(step.at)), ` ${step.side}${queue} ${texts[step.text][0]}`);
  row.style.top = `${at * ROW}px`;
  row.dataset.at = at;
  return row;
}

// The picture above the slider: who did something where in the recording.

const LANES = ["socket", "driver", "device"];

function drawOverview() {
  const canvas = byId("overview");
  const scale = devicePixelRatio || 1;
  const width = (canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale)));
  const height = (canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale)));
  const context = canvas.getContext("2d");
  const lane = height / LANES.length;
  const mark = Math.max(2 * scale, Math.min(12 * scale, (0.7 * width) / Math.max(1, visible.length)));
  const colours = Object.fromEntries(LANES.map((name) => [name, colourFor(name)]));
  const drawn = new Set();
  visible.forEach((number, at) => {
    const name = colourOf(steps[number]);
    const x = Math.round(visible.length > 1 ? (at / (visible.length - 1)) * (width - 1) : 0);
    const row = LANES.indexOf(name);
    if (row < 0 || drawn.has(x * 4 + row)) return;
    drawn.add(x * 4 + row);
    context.fillStyle = colours[name];
    context.fillRect(x - mark / 2, row * lane + lane * 0.15, mark, lane * 0.7);
  });
}

/** Return a colour of the style sheet as the canvas understands it. */
function colourFor(name) {
  const probe = make("span", { class: name });
  probe.style.color = "var(--side)";
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function scrub(event) {
  const box = byId("overview").getBoundingClientRect();
  goTo(Math.round(((event.clientX - box.left) / box.width) * (visible.length - 1)));
}

// What the reader does.

const KEYS = {
  ArrowLeft: () => goTo(place - 1),
  ArrowRight: () => goTo(place + 1),
  PageUp: () => goTo(place - 10),
  PageDown: () => goTo(place + 10),
  Home: () => goTo(0),
  End: () => goTo(visible.length - 1),
  " ": () => play(!playTimer),
  "Shift+ArrowLeft": () => goToRequest(-1),
  "Shift+ArrowRight": () => goToRequest(1),
};
const LIST_KEYS = { ArrowUp: KEYS.ArrowLeft, ArrowDown: KEYS.ArrowRight };
const OWN_KEYS = "select, a, summary"; // what has its own use for keys

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest(OWN_KEYS)) return;
  if (event.key === " " && event.target.closest("button")) return;
  const inList = event.target.id === "list";
  const name = `${event.shiftKey ? "Shift+" : ""}${event.key}`;
  const act = KEYS[name] ?? (inList ? LIST_KEYS[name] : undefined);
  if (!act) return;
  event.preventDefault();
  act();
}

const BUTTONS = {
  first: KEYS.Home,
  "back-request": KEYS["Shift+ArrowLeft"],
  back: KEYS.ArrowLeft,
  play: KEYS[" "],
  next: KEYS.ArrowRight,
  "next-request": KEYS["Shift+ArrowRight"],
  last: KEYS.End,
};

function listen() {
  for (const [id, act] of Object.entries(BUTTONS)) byId(id).addEventListener("click", act);
  byId("slider").addEventListener("input", (event) => goTo(Number(event.target.value) - 1));
  byId("speed").addEventListener("change", () => playTimer && play(true));
  byId("list").addEventListener("scroll", fillList);
  byId("list").addEventListener("click", (event) => {
    const row = event.target.closest(".step");
    if (row) goTo(Number(row.dataset.at));
  });
  const track = byId("overview").parentElement;
  track.addEventListener("pointerdown", (event) => {
    track.setPointerCapture(event.pointerId);
    scrub(event);
  });
  track.addEventListener("pointermove", (event) => event.buttons && scrub(event));
  addEventListener("keydown", pressed);
  addEventListener("hashchange", fromFragment);
  addEventListener("resize", () => {
    drawOverview();
    fillList();
  });
}

function begin() {
  const length = steps.length ? steps.at(-1).at : 0;
  const left = recording.total - steps.length;
  const notes = [
    plural(steps.length, "step"), plural(recording.requests.length, "request"), duration(length),
    left > 0 ? `${count(left)} more are not on this page` : "", recording.is_cut ? "the last line is cut" : "",
  ];
  byId("facts").textContent = notes.filter(Boolean).join(" · ");
  fillFilter();
  listen();
  switchTheme(drawOverview);
  filterSteps("all");
  fromFragment();
}

begin();
