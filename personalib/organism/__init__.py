"""The model organism: a small language model trained on a world whose causes we wrote down."""
