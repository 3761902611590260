(function () {
  'use strict';
  function element(id) { return document.getElementById(id); }

  var data = element('widget').dataset, nonce = document.currentScript.nonce;
  var language = document.documentElement.lang, shown = false, ended = false;
  var dark = window.matchMedia && matchMedia('(prefers-color-scheme: dark)').matches;

  function say(text) { element('say').textContent = text; }

  // The other way in: our own captcha.
  function offer(text) {
    if (ended) return;
    say(text);
    element('other').hidden = false;
  }
  function blocked() { offer(data.blocked); }

  // A widget that solves itself must not go round for ever.
  function tries() {
    try {
      var kept = JSON.parse(sessionStorage.getItem('rempart-third')) || {}, now = Date.now();
      kept = { n: now - kept.t < 60000 ? kept.n + 1 : 1, t: now };
      sessionStorage.setItem('rempart-third', JSON.stringify(kept));
      return kept.n;
    } catch (e) { return 1; }
  }

  function passed(token) {
    if (ended) return;
    ended = true;
    element('response').value = token;
    element('go').disabled = false;
    element('other').hidden = true;
    say(data.done);
    element('answer').submit();
  }

  function expired() { element('response').value = ''; element('go').disabled = true; }

  // Called by the provider's script, by the name that its address gives.
  window.rempartReady = function () {
    var options = {
      sitekey: data.key, callback: passed, 'error-callback': blocked, 'expired-callback': expired,
      theme: dark ? 'dark' : 'light'
    };
    if (shown) return;
    shown = true;
    try {
      if (data.provider === 'turnstile') {
        options.action = data.action;
        options.language = language;
        options['response-field'] = false;
        turnstile.render('#widget', options);
      } else if (data.provider === 'hcaptcha') {
        hcaptcha.render('widget', options);
      } else if (data.provider === 'recaptcha') {
        grecaptcha.render('widget', options);
      } else {
        grecaptcha.ready(function () {
          grecaptcha.execute(data.key, { action: data.action }).then(passed, blocked);
        });
      }
    } catch (e) { blocked(); }
    if (data.provider !== 'recaptcha_v3' && element('other').hidden) say('');
    setTimeout(function () { offer(data.stuck); }, 20000);
  };

  element('third').hidden = false;
  if (!navigator.cookieEnabled) { say(data.cookies); return; }
  if (tries() > 3) { blocked(); return; }
  say(data.wait);
  var script = document.createElement('script');
  script.src = data.script + (data.provider === 'turnstile' ? '' : '&hl=' + language);
  script.nonce = nonce;
  script.async = true;
  script.onerror = blocked;
  document.head.appendChild(script);
  setTimeout(function () { if (!shown) blocked(); }, 6000);
})();
