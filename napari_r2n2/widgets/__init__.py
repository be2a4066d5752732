"""The dock widgets and the Qt parts that they are made of; everything they do is done by the models and the layers."""
