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
      box.setAttribute('aria-label', 'I am human');
      box.onchange = function () { options.callback(token); };
      element(where).appendChild(box);
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
