"use strict";

// What both pages need: elements, bytes, and the switch between light and dark. Text always goes into text nodes.

/** Return a new element; attributes that are null or false are left out, children are elements or text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);

function dataOfPage() {
  return JSON.parse(byId("data").textContent);
}

const countFormat = new Intl.NumberFormat("en");
const count = (number) => countFormat.format(number);
const plural = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;

/** Return nanoseconds in the unit that suits them. */
function duration(nanoseconds) {
  const units = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]];
  const [size, unit] = units.find(([size]) => Math.abs(nanoseconds) >= size) ?? [1, "ns"];
  const value = nanoseconds / size;
  return `${unit === "ns" ? Math.round(value) : value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${unit}`;
}

/** Return the rows of a hex dump: offset, bytes, characters. */
function dumpRows(hex) {
  const rows = [];
  for (let at = 0; at < hex.length; at += 32) {
    const bytes = hex.slice(at, at + 32).match(/../g) ?? [];
    const shown = bytes.map((byte) => {
      const code = parseInt(byte, 16);
      return code >= 32 && code < 127 ? String.fromCharCode(code) : "·";
    });
    const columns = [bytes.slice(0, 8).join(" "), bytes.slice(8).join(" ")].join("  ").padEnd(48);
    rows.push(`${(at / 2).toString(16).padStart(4, "0")}  ${columns}  ${shown.join("")}`);
  }
  return rows;
}

// Light and dark: as the system has it, until somebody chooses. A file's page may not keep the choice; then it is lost.

function chosenTheme() {
  try {
    return localStorage.getItem("pyvirtio-theme");
  } catch {
    return null;
  }
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Have the button with the id "theme" switch; call `changed` after each switch. */
function switchTheme(changed = () => {}) {
  const button = byId("theme");
  const label = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
    changed();
  };
  const chosen = chosenTheme();
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("pyvirtio-theme", theme);
    } catch {
      // It holds until the page is closed.
    }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
}
