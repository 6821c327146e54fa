"""From a Keras model to a served answer: export, verify, server, client."""
