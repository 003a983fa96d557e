"""What does a run train? A job supplies the data, the network, the inputs and losses of a step."""
