// What the load tests share: where to, and who asks.

// The edge under test, e.g. https://app.example.com or https://localhost:8443.
export const BASE_URL = (__ENV.BASE_URL || "https://localhost:8443").replace(/\/$/, "");
export const DURATION = __ENV.DURATION || "30s";

// A number from the environment.
export function number(name, usual) {
  const value = Number(__ENV[name] || usual);
  if (!Number.isFinite(value)) throw new Error(`${name} is not a number`);
  return value;
}

// The edge must trust the machine that runs k6 (clients.trusted_proxies) to believe this header:
// that is how one machine plays many clients.
export function from(address) {
  return { "x-forwarded-for": address };
}

// One of 254 clients, the same for the same number.
export function client(n) {
  return from(`198.51.100.${1 + (n % 254)}`);
}

// A scenario of so many requests a second, whether or not answers come.
export function steady(exec, rate, duration = DURATION) {
  return {
    executor: "constant-arrival-rate",
    exec,
    rate,
    timeUnit: "1s",
    duration,
    preAllocatedVUs: Math.max(2, Math.ceil(rate / 4)),
    maxVUs: Math.max(10, rate * 2),
    gracefulStop: "10s",
  };
}

export const base = {
  // For a self-signed edge, like `rempart demo`.
  insecureSkipTLSVerify: __ENV.INSECURE === "1",
  discardResponseBodies: true,
  noUsageReport: true,
};
