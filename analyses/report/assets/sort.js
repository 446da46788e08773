// Sorts a table by a column's button: numbers by value, words by alphabet, what has no value last.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const table = head.closest("table");
    const column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      const value = cell.dataset.value;
      return value === undefined ? cell.textContent : Number(value);
    };
    const words = new Intl.Collator(undefined, { numeric: true });
    const empty = (value) => value === "-" || value === "";
    const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, value: key(row) }));
    rows.sort((a, b) => {
      if (empty(a.value) || empty(b.value)) return empty(a.value) - empty(b.value);
      const numbers = typeof a.value === "number" && typeof b.value === "number";
      const order = numbers ? a.value - b.value : words.compare(a.value, b.value);
      return (down ? -order : order) || a.place - b.place;
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  });
}
