"""Open Images: millions of pictures in object storage, thousands of classes, several labels per image."""
