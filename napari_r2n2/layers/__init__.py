"""Between the models and a napari viewer, without Qt: series to layers and back, the layers of a result, what is drawn on them."""
