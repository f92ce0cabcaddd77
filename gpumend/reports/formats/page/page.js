
"use strict";
(() => {
  const filter = document.getElementById("filter");
  const choices = [...document.querySelectorAll(".choice input")];
  const items = [...document.querySelectorAll(".item")].map((node) => ({ node, text: node.textContent.toLowerCase(), statuses: (node.dataset.status || "").split(" ").filter(Boolean) }));
  const shown = document.getElementById("shown");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const off = new Set(choices.filter((choice) => !choice.checked).map((choice) => choice.value));
    let count = 0;
    for (const item of items) {
      const wanted = item.statuses.length === 0 ? true : item.statuses.some((status) => !off.has(status));
      const visible = wanted && words.every((word) => item.text.includes(word));
      item.node.hidden = !visible;
      count += visible;
    }
    shown.textContent = count === items.length ? "" : `${count} of ${items.length} shown`;
  };
  filter.addEventListener("input", apply);
  choices.forEach((choice) => choice.addEventListener("change", apply));
  const body = document.querySelector("tbody");
  const heads = [...document.querySelectorAll("th")];
  const key = (row, column) => row.cells[column].dataset.key || row.cells[column].textContent.trim();
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => key(a, column).localeCompare(key(b, column), "en", { numeric: true }));
    body.append(...(down ? rows.reverse() : rows));
  }));
  document.querySelector(".controls").hidden = false;
})();
