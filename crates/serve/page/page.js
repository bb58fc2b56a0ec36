// The names of the models that can be drawn from.
const models = await (await fetch("/api/models")).json();
for (const { name, scheduler } of models) {
  const item = document.createElement("li");
  item.textContent = `${name} (${scheduler})`;
  document.querySelector("#models").append(item);
}
