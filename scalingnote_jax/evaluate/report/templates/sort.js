// Column headings become buttons that sort. Without this script the tables are plain ones.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;

  // A number, the text where there is none to sort by, or null where a number is missing.
  const key = (row, column) => {
    const value = row.cells[column].dataset.value;
    if (value === undefined) return row.cells[column].textContent.trim().toLowerCase();
    return value === "" ? null : Number(value);
  };
  const sort = (column, up) => {
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // last either way
      return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
    });
    body.append(...rows.map(([, row]) => row));
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const words = key(body.rows[0], column);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      // First the largest numbers, or the words from A.
      sort(column, now ? now === "descending" : typeof words === "string");
    });
  });
  table.caption.append(" (sortable by the buttons in the heading of each column)");
}
