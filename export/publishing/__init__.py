"""From a candidate to a published artifact: gates, latencies, the card."""
