"""Lung function from an aligned series: rates of breathing and heart, and maps of ventilation and perfusion."""
