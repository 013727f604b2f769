"""What a training step costs: FLOPs, the roofline of this machine, links of many."""
