"use strict";
// Sorting: a click on a column's head sorts by it, another turns it round. References keep their place on top.
const announce = document.getElementById("announce");

function sortKey(row, column) {
  const cell = row.cells[column];
  if (!cell.hasAttribute("data-value")) return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function sortTable(table, column, direction) {
  const head = table.tHead.rows[table.tHead.rows.length - 1].cells[column];
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", direction);
  const body = table.querySelector("tbody.entries");
  const turn = direction === "ascending" ? 1 : -1;
  const keyed = Array.from(body.rows, (row, place) => ({ row, place, key: sortKey(row, column) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place; // missing: last
    const order = typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
    return turn * order || a.place - b.place;
  });
  body.append(...keyed.map((entry) => entry.row));
  announce.textContent = `Sorted by ${head.textContent.trim()}, ${direction}`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
  Array.from(heads).forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      sortTable(table, column, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    });
  });
}

// Legend: a pressed button shows its entry in the charts of its section.
for (const section of document.querySelectorAll(".block")) {
  for (const button of section.querySelectorAll("[data-toggle]")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const part of section.querySelectorAll(`.chart [data-entry="${button.dataset.toggle}"]`)) {
        part.classList.toggle("off", !shown);
      }
    });
  }
}

// Cost: one chart of the group is shown, the one whose button is pressed. Without this script all of them are.
for (const group of document.querySelectorAll(".costs")) {
  const buttons = group.querySelectorAll("[data-cost]");
  const choose = (key) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.cost === key));
    for (const part of group.querySelectorAll("[data-shows]")) part.hidden = part.dataset.shows !== key;
  };
  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.cost));
  if (buttons.length) choose(buttons[0].dataset.cost);
}

// Through training: of each entry the picture is shown that was made nearest to then.
for (const slider of document.querySelectorAll(".through input")) {
  const stations = slider.dataset.stations.split(" ").map(Number);
  const section = slider.closest(".samples");
  slider.addEventListener("input", () => {
    const kimg = stations[slider.value];
    section.querySelector("output").textContent = String(kimg);
    for (const figure of section.querySelectorAll(".picture")) {
      const frames = Array.from(figure.querySelectorAll("img"));
      const distance = (frame) => Math.abs(Number(frame.dataset.kimg) - kimg);
      const shown = frames.reduce((best, frame) => (distance(frame) < distance(best) ? frame : best));
      for (const frame of frames) frame.hidden = frame !== shown;
      const when = figure.querySelector(".when");
      if (when) when.textContent = String(Number(shown.dataset.kimg));
    }
  });
}

// A sorted table can be linked to: page.html#sort=t1-table,5,descending
const wanted = /^#sort=([\w-]+),(\d+),(ascending|descending)$/.exec(location.hash);
if (wanted) {
  const table = document.getElementById(wanted[1]);
  if (table) {
    sortTable(table, Number(wanted[2]), wanted[3]);
    table.scrollIntoView();
  }
}
