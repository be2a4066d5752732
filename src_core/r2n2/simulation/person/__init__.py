"""A breathing person in three dimensions: anatomy, motion that slides along the chest wall, images and the exact truth."""
