// Makes the calls that the argument lists with Stripe's library for Node.js, and prints what became of each.

import { createRequire } from "node:module";

const { port, calls, modules } = JSON.parse(process.argv[2]);
const Stripe = createRequire(`${modules}/`)("stripe");

async function call({ key, amount, retries }) {
  const stripe = new Stripe("sk_test_alice", {
    host: "127.0.0.1",
    port,
    protocol: "http",
    maxNetworkRetries: retries,
    telemetry: false,
  });
  try {
    const intent = await stripe.paymentIntents.create(
      { amount, currency: "eur" },
      { idempotencyKey: key },
    );
    return { id: intent.id ?? null };
  } catch (error) {
    const isError = error instanceof Stripe.errors.StripeError;
    return { error: isError ? error.type : `not Stripe's: ${error}`, status: error.statusCode };
  }
}

const outcomes = [];
for (const own of calls) outcomes.push(await call(own));
// The library does not read a response before it sends a request again, and the connection of that response
// would keep the process alive.
process.stdout.write(JSON.stringify(outcomes), () => process.exit());
