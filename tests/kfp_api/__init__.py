"""A recording double of the Kubeflow Pipelines API, for tests: no cluster is at hand there.

It is a double, and named as one. What it knows of the real API comes from two places: the shapes of requests and answers from
kfp-server-api's models, so that neither side can use a field that the real one does not have; and what the backend refuses from
the backend's own rules (parameters, names, cron, filters), each of which stands in `rules.py` beside the message that it gives.
"""
