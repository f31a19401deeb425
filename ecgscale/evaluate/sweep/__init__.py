"""How much of the scores rests on K, training records, layers, scales and the softmax."""
