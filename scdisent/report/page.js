"use strict";
(() => {
  // Tables: a button in each heading sorts by its column; cells without a value stay at the end.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const number = cell.dataset.value;
    if (number !== undefined) return Number(number);
    return cell.classList.contains("empty") ? null : cell.textContent;
  };

  const order = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sort = (table, column) => {
    const heads = table.tHead.rows[0].cells;
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
    const empty = rows.filter(([value]) => value === null);
    const full = rows.filter(([value]) => value !== null);
    full.sort(([a], [b]) => (up ? order(a, b) : order(b, a)));
    body.append(...[...full, ...empty].map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column));
      head.append(button);
    });
  }

  // Embeddings: what is known of the cell nearest to the pointer, in a box beside it.
  const cells = JSON.parse(document.getElementById("cells").textContent);
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  const aloud = document.createElement("div");
  aloud.className = "aloud";
  aloud.setAttribute("aria-live", "polite");
  document.body.append(tip, aloud);

  const describe = (cell) =>
    cells.columns.map(({ name, levels, codes }) => `${name}: ${levels[codes[cell]] ?? "–"}`);

  const nearest = ({ x, y }, at, reach) => {
    let best = -1;
    let least = reach * reach;
    for (let cell = 0; cell < x.length; cell++) {
      const distance = (x[cell] - at.x) ** 2 + (y[cell] - at.y) ** 2;
      if (distance < least) [best, least] = [cell, distance];
    }
    return best;
  };

  const panels = [...document.querySelectorAll("svg[data-block]")];

  const show = (svg, cell) => {
    const points = cells.blocks[svg.dataset.block];
    for (const other of panels) {
      const ring = other.querySelector(".ring");
      const same = other.dataset.block === svg.dataset.block && cell >= 0;
      ring.setAttribute("visibility", same ? "visible" : "hidden");
      if (same) {
        ring.setAttribute("cx", points.x[cell]);
        ring.setAttribute("cy", points.y[cell]);
      }
    }
    tip.hidden = cell < 0;
    if (cell < 0) return;
    tip.textContent = describe(cell).join("\n");
    const ring = svg.querySelector(".ring").getBoundingClientRect();
    const right = ring.right + 8 + tip.offsetWidth < document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, right ? ring.right + 8 : ring.left - 8 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(4, ring.top - tip.offsetHeight - 4)}px`;
  };

  for (const svg of panels) {
    const points = cells.blocks[svg.dataset.block];
    const byPlace = points.x.map((_, cell) => cell).sort((a, b) => points.x[a] - points.x[b]);
    let place = -1;
    const point = (event) => {
      const inverse = svg.getScreenCTM().inverse();
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(inverse);
      show(svg, nearest(points, at, 14 * inverse.a));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", () => show(svg, -1));
    svg.addEventListener("blur", () => show(svg, -1));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      place = (place + step + byPlace.length) % byPlace.length;
      show(svg, byPlace[place]);
      aloud.textContent = describe(byPlace[place]).join(", ");
    });
  }
  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Legends: a level that is clicked on stands alone until it is clicked on again.
  for (const legend of document.querySelectorAll(".legend")) {
    const svg = legend.parentElement.querySelector("svg");
    const buttons = [...legend.querySelectorAll(".level")].map((level) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "level";
      button.dataset.level = level.dataset.level;
      button.setAttribute("aria-pressed", "false");
      button.append(...level.childNodes);
      level.replaceWith(button);
      return button;
    });
    const pick = (chosen) => {
      const alone = chosen.getAttribute("aria-pressed") !== "true";
      for (const button of buttons) {
        button.setAttribute("aria-pressed", String(alone && button === chosen));
      }
      svg.classList.toggle("picked", alone);
      for (const path of svg.querySelectorAll("path")) {
        path.classList.toggle("on", path.dataset.level === chosen.dataset.level);
      }
    };
    for (const button of buttons) button.addEventListener("click", () => pick(button));
  }
})();
