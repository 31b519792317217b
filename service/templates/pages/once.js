document.addEventListener("submit", function (event) {
  var button = event.target.querySelector("button");
  // Later, so that the browser has taken the form before; a second press would find everything used.
  setTimeout(function () { button.disabled = true; }, 0);
});
addEventListener("pageshow", function () {
  document.querySelectorAll("form button").forEach(function (button) { button.disabled = false; });
});
