"""Makes the calls that the argument lists with Stripe's library for Python, and prints what became of each."""

import json
import sys

asked = json.loads(sys.argv[1])
sys.path.insert(0, asked["modules"])

import stripe  # noqa: E402


def call(key, amount, retries):
    client = stripe.StripeClient(
        "sk_test_alice",
        base_addresses={"api": f"http://127.0.0.1:{asked['port']}"},
        max_network_retries=retries,
    )
    try:
        intent = client.v1.payment_intents.create(
            {"amount": amount, "currency": "eur"}, {"idempotency_key": key}
        )
        return {"id": getattr(intent, "id", None)}
    except stripe.StripeError as error:
        return {"error": type(error).__name__, "status": error.http_status}


print(json.dumps([call(**own) for own in asked["calls"]]))
