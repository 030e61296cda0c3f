"use strict";
(() => {
  const all = JSON.parse(document.getElementById("sample-data").textContent);
  const box = (id) => document.getElementById(id);
  const body = box("sample-rows"), PAGE = 20;
  let page = 0, shown = all, sought = null;
  const show = (v) => (v === null ? "–" : v.toFixed(Math.abs(v) >= 10 ? 1 : 2).replace("-", "−"));
  const cell = (row, text, kind, label) => {
    const td = document.createElement("td");
    td.className = kind;
    if (label) td.dataset.label = label;
    td.textContent = text;
    row.append(td);
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    body.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map((r) => {
      const tr = document.createElement("tr");
      tr.title = r.id;
      tr.id = `reply-${all.indexOf(r)}`;
      if (r === sought) tr.className = "sought";
      cell(tr, r.arm, "", "");
      cell(tr, r.step === null ? "–" : String(r.step), "num", "step");
      cell(tr, show(r.proxy), "num", "proxy");
      cell(tr, show(r.gold), "num", "gold");
      cell(tr, show(r.gap), "num", "gap");
      cell(tr, show(r.kl), "num", "KL");
      cell(tr, r.prompt, "text", "");
      cell(tr, r.reply, "text reply", "");
      return tr;
    }));
    box("sample-count").textContent = shown.length ? `${page * PAGE + 1}–${Math.min(shown.length, (page + 1) * PAGE)} of ${shown.length}` : "none match";
    box("sample-back").disabled = page === 0;
    box("sample-next").disabled = page >= pages - 1;
  };
  const choose = () => {
    const text = box("sample-text").value.toLowerCase(), arm = box("sample-arm").value, step = box("sample-step").value;
    const [column, direction] = box("sample-sort").value.split(" ");
    shown = all.filter((r) => (!arm || r.arm === arm) && (!step || String(r.step) === step) && (!text || r.reply.toLowerCase().includes(text) || r.prompt.toLowerCase().includes(text)));
    const sign = direction === "down" ? -1 : 1;
    shown.sort((a, b) => (a[column] === null) - (b[column] === null) || sign * (a[column] - b[column]));
    page = 0;
    draw();
  };
  for (const id of ["sample-arm", "sample-step", "sample-sort"]) box(id).addEventListener("change", choose);
  box("sample-text").addEventListener("input", choose);
  box("sample-back").addEventListener("click", () => { page -= 1; draw(); });
  box("sample-next").addEventListener("click", () => { page += 1; draw(); });
  // the table holds every reply, and the order is fixed before sorting, so a link to a reply is its place in the file
  const seek = () => {
    sought = all[Number((location.hash.match(/^#reply-(\d+)$/) || [])[1])] || null;
    if (!sought) return;
    for (const id of ["sample-text", "sample-arm", "sample-step"]) box(id).value = "";
    choose();
    page = Math.floor(shown.indexOf(sought) / PAGE);
    draw();
    body.querySelector(".sought").scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", seek);
  choose();
  seek();
})();
