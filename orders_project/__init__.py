"""The roof: wires the services together and holds no business."""
