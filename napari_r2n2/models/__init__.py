"""What the widgets show, without Qt or napari: a registration, its images, its files, landmarks, the adapting of weights."""
