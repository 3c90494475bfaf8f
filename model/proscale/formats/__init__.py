"""What a segmentation is written as besides COCO RLE: polygons, GeoJSON, COCO files, label maps, tables. Made from runs, without torch."""
