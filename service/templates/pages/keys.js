(function () {
  var said = document.querySelector("[data-said]");
  function byHand(text) {
    var area = document.createElement("textarea");
    area.value = text;
    area.readOnly = true;
    area.className = "hidden-text";
    document.body.appendChild(area);
    area.select();
    var done = false;
    try { done = document.execCommand("copy"); } catch (refused) { done = false; }
    area.remove();
    return done;
  }
  function copy(text) {
    if (navigator.clipboard && window.isSecureContext) {
      return navigator.clipboard.writeText(text).then(function () { return true; }, function () { return byHand(text); });
    }
    return Promise.resolve(byHand(text));
  }
  function enable(button, label, text, name, source) {
    var before = label.textContent, timer;
    button.hidden = false;
    button.addEventListener("click", function () {
      copy(text()).then(function (done) {
        button.focus();
        if (!done && source) { getSelection().selectAllChildren(source); }
        label.textContent = done ? "Copied" : "Selected";
        said.textContent = "";
        setTimeout(function () {
          said.textContent = done ? name + " copied" : name + " selected. Copy it with your keyboard or menu.";
        }, 60);
        clearTimeout(timer);
        timer = setTimeout(function () { label.textContent = before; }, 2500);
      });
    });
  }
  var keys = Array.prototype.slice.call(document.querySelectorAll(".key"));
  keys.forEach(function (key, index) {
    var button = document.querySelector('[data-copy="' + key.id + '"]');
    enable(button, button.querySelector("[data-label]"), function () { return key.textContent; },
      keys.length === 1 ? "License key" : "Key " + (index + 1), key);
  });
  var all = document.querySelector("[data-copy-all]");
  if (all) {
    enable(all, all, function () { return keys.map(function (key) { return key.textContent; }).join("\n"); },
      "All " + keys.length + " keys", document.querySelector(".licenses"));
  }
})();
