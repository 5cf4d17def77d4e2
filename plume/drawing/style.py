"""How pictures look in a browser: one style, light and dark, and a few lines that fade what a slot cannot see."""

STYLE = """
.plume-page {
  margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 100rem; background: Canvas; color: CanvasText;
  color-scheme: light dark;
  font: 16px/1.5 system-ui, "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  h1 { font-size: 1.7rem; margin: 0 0 .3rem; letter-spacing: -.01em }
  .intro { margin: 0 0 1.5rem; max-width: 75ch; opacity: .8 }
}
.plume-pictures {
  --line: #8885; --soft: #8881; --on: #3b82c4; --asked: #14794a; --hidden: #b45309; --swapped: #c0263d;
  --kept: #7c3aad; --query: #b45309; --special: #777;
  display: grid; gap: 1.25rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr));
  @media (prefers-color-scheme: dark) {
    --on: #5fa8e6; --asked: #4cc38a; --hidden: #f5b14c; --swapped: #ff7b8f; --kept: #c79bf2; --query: #f5b14c;
    --special: #999;
  }
  .card { border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.25rem 1.25rem; min-width: 0 }
  h2 { font: 700 1.2rem/1.2 ui-monospace, "DejaVu Sans Mono", monospace; margin: 0 0 .5rem }
  h3 { font-size: .95rem; margin: 1rem 0 .25rem }
  ul { list-style: none; margin: 0; padding: 0 }
  i { font-style: normal }
  small { font-size: .65rem; opacity: .6; font-weight: 400 }
  .facts { display: flex; flex-wrap: wrap; gap: .35rem; font-size: .8rem }
  .facts li { background: var(--soft); border-radius: 99px; padding: .1rem .6rem }
  ul.says { margin: .8rem 0; font-size: .95rem }
  ul.says li { padding-left: 1.1em; text-indent: -1.1em; margin: .25rem 0 }
  ul.says li::before { content: "▸"; display: inline-block; width: 1.1em; text-indent: 0; color: var(--asked) }
  .legend {
    display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .8rem; padding: .5rem 0;
    border-block: 1px solid var(--line);
    li { display: flex; align-items: center; gap: .4rem }
    .cell { width: 14px; height: 14px; border-radius: 3px; border: 1px solid var(--line) }
    .cell.on { background: color-mix(in srgb, var(--on) 40%, transparent); border-color: transparent }
    .cell.on.asked { background: var(--on) }
    &:not(:has(.asked)) .cell.on { background: var(--on) }
  }
  .key {
    display: inline-grid; place-items: center; min-width: 1.3em; height: 1.3em; border-radius: 4px;
    border: 1.5px solid; font-weight: 700; font-size: .75rem;
  }
  .key.special { border-style: dashed }
  .answer { color: var(--asked); font-weight: 650 }
  :is(.key, th).hidden, .slot.hidden b, tr.hidden th { color: var(--hidden) }
  :is(.key, th).swapped, .slot.swapped b, tr.swapped th { color: var(--swapped) }
  :is(.key, th).kept, .slot.kept b, tr.kept th { color: var(--kept) }
  :is(.key, th).query, .slot.query b, tr.query th { color: var(--query) }
  :is(.key, th).gap, .slot.gap b, tr.gap th { color: var(--query) }
  :is(.key, th).special, .slot.special b, tr.special th { color: var(--special) }
  .strip { display: flex; flex-wrap: wrap; gap: .55rem .3rem; margin: 1.1rem 0 .25rem; align-items: flex-start }
  .slot {
    display: flex; flex-direction: column; align-items: center; text-align: center; border-radius: 6px;
    transition: opacity .12s; outline-offset: 2px; cursor: default;
    .n { font-size: .65rem; opacity: .6 }
    b {
      font-weight: 500; border: 1.5px solid var(--line); border-radius: 6px; padding: .1rem .45rem;
      line-height: 1.5; white-space: nowrap; position: relative;
    }
    i { font-size: .85rem; line-height: 1.6; padding: 0 .2rem; white-space: nowrap }
    i:not(.answer) { opacity: .35 }
    .whole { border: 1.5px solid; border-radius: 6px; margin-top: .1rem; font-size: .75rem; padding: 0 .35rem }
    sup {
      position: absolute; top: -.65em; right: -.5em; width: 1.2em; height: 1.2em; font-size: .7rem;
      font-weight: 800; line-height: 1.1; background: Canvas; border: 1.5px solid; border-radius: 99px;
    }
  }
  .slot:is(.hidden, .swapped, .kept, .query, .gap) b { border-color: currentColor; font-weight: 700 }
  .slot.special b { border-style: dashed }
  .slot small { line-height: 1.3; font-size: .68rem; opacity: .75 }
  .slot.marked b, tr.marked th { outline: 3px solid var(--swapped); outline-offset: 1px; border-radius: 6px }
  .stacks { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)) }
  .stacks > * { min-width: 0 }
  .margin {
    align-items: flex-end; opacity: .65; padding-right: .4rem;
    b { border-color: transparent; padding-inline: 0; font-size: .85rem; line-height: 1.77 }
    i:not(.answer) { opacity: 1 }
  }
  .told { font-size: .8rem; opacity: .75; margin: .25rem 0 .5rem; min-height: 1.5em }
  .scroll { overflow-x: auto }
  table.listing {
    border-collapse: collapse; font-size: .85rem; margin: 1rem 0 0;
    caption { text-align: left; font-weight: 650; padding: .25rem 0 .4rem }
    :is(td, th) { padding: .1rem .9rem .1rem 0; text-align: left; white-space: nowrap }
    th { font-weight: 500; opacity: .7; border-bottom: 1px solid var(--line) }
    .number {
      font-variant-numeric: tabular-nums; min-width: 6rem;
      background: linear-gradient(color-mix(in srgb, var(--on) 45%, transparent) 0 0) no-repeat;
      background-position: left; background-size: calc(var(--share, 0) * 100%) 80%;
    }
  }
  table.grid {
    border-collapse: separate; border-spacing: 2px; font-size: .75rem; width: auto; margin: 0; background: none;
    color: inherit;
    caption { text-align: left; font-weight: 650; font-size: .85rem; padding: .25rem 0 .4rem; color: inherit }
    :is(td, th) { padding: 0; border: 0; background: none }
    thead th { vertical-align: bottom; font-weight: 500; text-align: left }
    thead th span {
      writing-mode: vertical-rl; transform: rotate(180deg); max-height: 6.5rem; overflow: hidden;
      white-space: nowrap; line-height: 17px;
    }
    thead th span:lang(zh) { transform: none }
    thead small { display: block; text-align: center }
    tbody th {
      text-align: right; font-weight: 500; padding-right: .4rem; white-space: nowrap; max-width: 8rem;
      overflow: hidden; text-overflow: ellipsis;
    }
    td.cell {
      width: 17px; min-width: 17px; height: 17px; border-radius: 3px; background: var(--soft); line-height: 15px;
      text-align: center; color: color-mix(in srgb, currentColor 35%, transparent);
    }
    td.cell.on { background: color-mix(in srgb, var(--on) 40%, transparent) }
    tr.asked td.cell.on { background: var(--on) }
    td.gap { min-width: 9px; width: 9px }
    tr.over td { font-size: .7rem; opacity: .7; padding-bottom: .2rem }
    tr { transition: opacity .12s }
    td.says { padding-left: .5rem; white-space: nowrap }
  }
  .watched .slot:not(.seen, .margin) { opacity: .22 }
  .looking .slot:not(.seen, .looker, .margin), .looking tbody tr:not(.looker) { opacity: .22 }
  .looker b { box-shadow: 0 0 0 3px color-mix(in srgb, var(--on) 45%, transparent) }
  @media print { .card { break-inside: avoid } }
}
"""

SCRIPT = """
for (const stack of document.querySelectorAll('.stack')) {
  const slots = [...stack.querySelectorAll('.slot[data-sees]')], rows = [...stack.querySelectorAll('tr[data-row]')];
  const told = stack.querySelector('.told');
  const first = stack.dataset.stack === 'decoder' ? stack.previousElementSibling : null;
  const theirs = first ? [...first.querySelectorAll('.slot[data-sees]')] : [];
  const look = q => {
    stack.classList.add('looking');
    slots.forEach((slot, k) => slot.classList.toggle('seen', slots[q].dataset.sees[k] === '1'));
    theirs.forEach((slot, k) => slot.classList.toggle('seen', slots[q].dataset.across[k] === '1'));
    first?.classList.add('watched');
    [slots, rows].forEach(list => list.forEach((x, k) => x.classList.toggle('looker', k === q)));
    told.textContent = slots[q].dataset.told;
  };
  const rest = () => {
    stack.classList.remove('looking');
    told.textContent = told.dataset.point;
    first?.classList.remove('watched');
    [...slots, ...rows, ...theirs].forEach(x => x.classList.remove('seen', 'looker'));
  };
  [slots, rows].forEach(list => list.forEach((x, q) => {
    for (const event of ['pointerenter', 'focus']) x.addEventListener(event, () => look(q));
    for (const event of ['pointerleave', 'blur']) x.addEventListener(event, rest);
  }));
}
"""
