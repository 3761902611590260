// Stands in for the providers' scripts, as they document them: explicit rendering, and a callback with
// a token. The tests' own server takes `good:HOST:ANYTHING` for good.
(function () {
  'use strict';
  var address = new URL(document.currentScript.src).searchParams;
  var token = 'good:' + location.hostname + ':' + Math.random();
  var element = function (where) {
    return typeof where === 'string' ? document.querySelector(/^#/.test(where) ? where : '#' + where) : where;
  };
  var api = {
    render: function (where, options) {
      if (options.sitekey !== 'site-key') throw new Error('sitekey');
      var box = document.createElement('input');
      box.type = 'checkbox';
      box.id = 'human';
      box.onchange = function () { options.callback(token); };
      box.style.cssText = 'width:1.5rem;height:1.5rem;margin:0';
      var label = document.createElement('label');
      label.style.cssText = 'display:flex;gap:.75rem;align-items:center;padding:1rem;border:1px solid #7a8599';
      label.appendChild(box);
      label.appendChild(document.createTextNode('I am human (the tests’ widget)'));
      element(where).appendChild(label);
      return 'widget-1';
    },
    ready: function (then) { then(); },
    execute: function (key, options) {
      if (key !== 'site-key' || options.action !== 'rempart') return Promise.reject(new Error('key or action'));
      return Promise.resolve(token);
    }
  };
  window.turnstile = window.hcaptcha = window.grecaptcha = api;
  window[address.get('onload')]();
})();
