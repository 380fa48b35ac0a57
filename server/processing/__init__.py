"""What happens to a request between the wire and the queue, and back: decoding, ranking, tracking."""
