
// Shows a running device: asks for its figures once a second, as long as somebody looks.

const PAUSE = 1000; // milliseconds between two questions
const PATIENCE = 8000;

let latest = null;
let isPaused = false;
let timer = 0;

async function ask() {
  clearTimeout(timer);
  try {
    const answer = await fetch("state", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    latest = await answer.json();
    show(latest);
  } catch {
    tell("No answer: the device is not served any more, or not at this address. Trying again.", "bad");
  }
  timer = setTimeout(askIfSeen, PAUSE);
}

function askIfSeen() {
  if (!isPaused && !document.hidden) ask();
}

let told = null;

/** Say something that a screen reader reads out, once. */
function tell(text, kind) {
  if (text === told) return;
  told = text;
  const status = byId("status");
  status.textContent = text;
  status.className = `status ${kind}`;
}

// Numbers in words.

const SIZES = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];

function size(bytes) {
  const [unit, name] = SIZES.find(([unit]) => bytes >= unit) ?? [1, "B"];
  return `${(bytes / unit).toFixed(unit === 1 || bytes / unit >= 100 ? 0 : 1)} ${name}`;
}

const rate = (number) => (number >= 100 || number === 0 ? count(Math.round(number)) : number.toFixed(1));
const latency = (nanoseconds) => (nanoseconds === null || nanoseconds === undefined ? "-" : duration(nanoseconds));
const per = (one, other) => (other > 0 ? (one / other).toFixed(1) : "-");

function ago(at) {
  const seconds = Math.max(0, (latest.now - at) / 1e9);
  if (seconds < 60) return `${seconds.toFixed(1)} s ago`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds / 3600)} h ago`;
}

// Tables that change in place: rows and cells are kept, so that nothing that is read or selected jumps.

/** Fill a table; a cell is text, an element, or { text, ... } with attributes. */
function fill(table, caption, heads, rows) {
  if (!table.tHead) {
    table.append(make("caption", { class: "unseen" }, caption), make("thead", {}, make("tr", {},
      ...heads.map(([head, kind]) => make("th", { scope: "col", class: kind }, head)))), make("tbody"));
  }
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach(({ kind, cells }, at) => {
    const row = body.rows[at] ?? body.insertRow();
    row.className = kind ?? "";
    cells.forEach((cell, column) => {
      const place = row.cells[column] ?? row.appendChild(make(column ? "td" : "th", { scope: column ? null : "row", class: heads[column][1] }));
      if (cell instanceof Node) {
        if (place.firstChild !== cell) place.replaceChildren(cell);
      } else if (place.textContent !== cell) {
        place.textContent = cell;
      }
    });
  });
}

const QUEUE_HEADS = [
  ["queue"], ["state"], ["last minute"], ["answers/s", "number"], ["in flight", "number"], ["oldest", "number"], ["p50", "number"],
  ["p90", "number"], ["p99", "number"], ["max", "number"], ["read/s", "number"], ["written/s", "number"], ["per kick", "number"],
  ["per interrupt", "number"], ["answered", "number"],
];

function queueRow(queue) {
  const { rates, latency: latencies } = queue;
  return {
    kind: queue.runs ? "" : "stopped",
    cells: [
      String(queue.index), `${queue.runs ? "runs" : "stopped"}, ${queue.size}`, spark(queue), rate(rates.answered),
      queue.runs ? count(queue.in_flight) : "-", queue.runs && queue.oldest ? duration(Math.max(0, latest.now - queue.oldest)) : "-",
      latency(latencies.p50), latency(latencies.p90), latency(latencies.p99), latency(latencies.max),
      size(rates.read), size(rates.written), per(rates.asked, rates.kicks), per(rates.answered, rates.interrupts),
      count(queue.answered),
    ],
  };
}

const sparks = new Map();

/** Return the picture of a queue's answers a second; the numbers beside it say the same to who cannot see it. */
function spark(queue) {
  if (!sparks.has(queue.index)) sparks.set(queue.index, make("canvas", { class: "spark", width: 240, height: 44, "aria-hidden": "true" }));
  const canvas = sparks.get(queue.index);
  const context = canvas.getContext("2d");
  const most = Math.max(1, ...queue.history);
  const step = canvas.width / 60;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = getComputedStyle(byId("name")).color;
  queue.history.forEach((value, at) => {
    const height = value > 0 ? Math.max(2, (value / most) * (canvas.height - 2)) : 1;
    context.fillRect((60 - queue.history.length + at) * step, canvas.height - height, step - 1, height);
  });
  return canvas;
}

const REQUEST_HEADS = [
  ["queue"], ["head"], ["answered"], ["took", "number"], ["to read", "number"], ["room", "number"], ["written", "number"],
  ["asked, the beginning"], ["answer, the beginning"],
];

const bytesOf = (hex) => (hex ? hex.match(/../g).slice(0, 12).join(" ") + (hex.length > 24 ? " …" : "") : "-");

function requestRow(request) {
  return {
    cells: [
      String(request.queue), String(request.head), ago(request.at + request.latency), duration(request.latency),
      size(request.length), size(request.room), size(request.written), bytesOf(request.asked), bytesOf(request.answer),
    ],
  };
}

function featureRows({ offered, features }) {
  const agreed = new Set((features ?? []).map(([bit]) => bit));
  const all = new Map([...offered, ...(features ?? [])]);
  return [...all].sort(([one], [other]) => one - other).map(([bit, name]) => ({
    cells: [String(bit), name, features === null ? "not yet" : agreed.has(bit) ? "yes" : "no"],
  }));
}

// The whole page.

function show(state) {
  const { device, connection } = state;
  if (device.name) {
    byId("name").textContent = device.name;
    document.title = `${device.name}: pyvirtio`;
    byId("about").textContent = `${device.kind}, virtio id ${device.id} · watched for ${duration(state.watched * 1e9)}`;
  }
  if (connection.is_open) tell(`A front-end is connected (connection ${connection.number}).`, "connected");
  else tell(connection.number ? "The front-end is gone; the next one may connect." : "No front-end has connected yet.", "quiet");
  showGlance(state);
  fill(byId("queues"), "Queues", QUEUE_HEADS, state.queues.map(queueRow));
  fill(byId("requests"), "Last requests", REQUEST_HEADS, state.requests.map(requestRow));
  fill(byId("features"), "Features", [["bit"], ["name"], ["agreed on"]], featureRows(state));
  setText(byId("config"), state.config ? dumpRows(state.config).join("\n") : "The device has none.");
  lines(byId("log"), state.log.map(({ at, name, text }) => [at, name, text]));
  lines(byId("messages"), state.messages.map(({ at, by, text, more }) => [at, by, [text, ...more].join(" · ")]));
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showGlance(state) {
  const sum = (value) => state.queues.reduce((total, queue) => total + value(queue), 0);
  const figures = [
    ["answers a second", rate(sum((queue) => queue.rates.answered))],
    ["in flight", count(sum((queue) => (queue.runs ? queue.in_flight : 0)))],
    ["answered in all", count(sum((queue) => queue.answered))],
    ["failures logged", count(state.failures), state.failures > 0],
    ["workers ended", count(state.restarts), state.restarts > state.reloads],
    ["reloads", count(state.reloads)],
    ["events not seen", count(state.missed), state.missed > 0],
  ];
  const glance = byId("glance");
  figures.forEach(([name, value, isWorry], at) => {
    const figure = glance.children[at] ?? glance.appendChild(make("dl", { class: "figure" }, make("dt", {}, name), make("dd")));
    figure.classList.toggle("worry", Boolean(isWorry));
    setText(figure.lastChild, value);
  });
}

function lines(list, entries) {
  const shown = entries.map(([at, name, text]) => make("li", {},
    make("span", { class: "at" }, ago(at)), make("span", { class: "name" }, name), ` ${text}`));
  list.replaceChildren(...(shown.length ? shown : [make("li", { class: "quiet" }, "Nothing yet.")]));
}

function begin() {
  switchTheme(() => latest && show(latest));
  byId("pause").addEventListener("click", () => {
    isPaused = !isPaused;
    byId("pause").textContent = isPaused ? "Go on" : "Pause";
    askIfSeen();
  });
  document.addEventListener("visibilitychange", askIfSeen);
  ask();
}

begin();
