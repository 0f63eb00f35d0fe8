
// Shows one step: who did what, the two sides, the three areas, the request and its bytes.

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
  showMemory(at, step, number);
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
    wire("socket", step.what === "message", step.what !== "message" ? "↔" : side === "device" ? "←" : "→", at.messages, "socket"),
    wire("kick", step.what === "kick", "→", queue?.kicks ?? 0, "driver"),
    wire("interrupt", step.what === "interrupt", "←", queue?.interrupts ?? 0, "device"),
  );
}

function wire(name, isActive, arrow, number, colour) {
  const often = make("span", { class: "mono" }, count(number), make("span", { class: "unseen" }, " so far"));
  const label = make("span", {}, arrow === "→" ? `${name} ${arrow}` : `${arrow} ${name}`);
  return make("li", { class: `wire ${colour}${isActive ? " active" : ""}` }, label, often);
}

// The three areas.

function showMemory(at, step, number) {
  const queue = at.queues.get(at.shown);
  byId("memory-title").textContent = queue ? `Shared memory: queue ${at.shown}, ${plural(queue.size, "entry").replace("entrys", "entries")}` : "Shared memory: no queue yet";
  for (const id of ["table", "indirect", "available", "used"]) byId(id).replaceChildren();
  for (const id of ["table-about", "available-about", "used-about"]) byId(id).textContent = "";
  if (!queue) return;
  const changed = step.queue === at.shown ? queue.changed : new Set();
  const { descriptor_area: table, driver_area: driver, device_area: device } = queue.changes;
  const place = (address) => (address ? `at ${address}, ` : "");
  byId("table-about").textContent = `${place(table)}written by the driver`;
  byId("available-about").textContent = `${place(driver)}written by the driver; index ${queue.available.index}`;
  byId("used-about").textContent = `${place(device)}written by the device; index ${queue.used.index}`;
  showTable(queue, changed, step);
  showIndirect(number);
  showAvailable(queue, changed);
  showUsed(queue, changed);
}

/** Fill an area with a table; a row is a class and its cells, of which the first is its header. */
function area(id, caption, heads, rows, more = 0) {
  const row = ([kind, ...cells]) => make("tr", { class: kind === "changed" ? `changed ${colourOf(steps[current()])}` : kind || null },
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

/** Show the table that the request's descriptor refers to, if it does: Linux's drivers like that (VIRTIO 1.4, 2.7.5.3). */
function showIndirect(number) {
  const described = requestOf[number] < 0 ? -1 : recording.requests[requestOf[number]][2];
  const chain = described < 0 ? [] : steps[described].changes.chain;
  const at = chain.findIndex(([, , , flags]) => flags & F_INDIRECT);
  if (at < 0) return;
  const kind = described === number ? "changed" : "";
  area("indirect", `Indirect table of descriptor ${chain[at][0]}`, ["index", "address", "bytes", "device", "next"],
    chain.slice(at + 1, at + 1 + ROWS).map(([index, address, length, flags, next]) => [
      kind, String(index), address, length, useOf(flags), flags & F_NEXT ? String(next) : "-",
    ]), steps[described].changes.descriptors - at - 1 - ROWS);
  byId("indirect").prepend(make("h4", {}, `The table at ${chain[at][1]}, to which ${chain[at][0]} refers`));
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
    if (behind16(ring.index, index) < ring.pending) return "unannounced";
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
