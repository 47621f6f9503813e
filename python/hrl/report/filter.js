// Without scripts every point is listed and the field stays hidden.
for (const field of document.querySelectorAll(".filter")) {
  field.hidden = false;
  const rows = [...field.parentElement.querySelectorAll(".points tbody tr")];
  field.firstElementChild.addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
