"""One device for many models: admission, queues, the scheduler, and the lanes that run batches."""
