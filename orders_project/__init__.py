"""The roof: wires the rooms together and holds no business."""
