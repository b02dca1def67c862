// Single keys that do something, unless one is typing.

const actions = new Map();

export function onKey(key, action) {
  actions.set(key, action);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) return;
  const action = actions.get(event.key);
  if (action) {
    event.preventDefault();
    action(event);
  }
});
