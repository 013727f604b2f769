// Filters over the table of claims: one list a column, from what stands in the cells.
const place = document.getElementById("claim-filters");
const table = place && document.querySelector("table");
if (table) {
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const value = (row, column) => row.cells[column].textContent.trim();
  const count = document.createElement("output");
  const lists = ["verdict", "kind", "data"].map((name) => {
    const column = heads.indexOf(name);
    const list = document.createElement("select");
    list.add(new Option("all", ""));
    for (const text of new Set(rows.map((row) => value(row, column))))
      list.add(new Option(text, text));
    const label = document.createElement("label");
    label.append(`${name} `, list);
    place.append(label);
    return { column, list };
  });
  const filter = () => {
    for (const row of rows)
      row.hidden = lists.some(
        ({ column, list }) => list.value && list.value !== value(row, column),
      );
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  for (const { list } of lists) list.addEventListener("change", filter);
  place.append(count);
  filter();
}
