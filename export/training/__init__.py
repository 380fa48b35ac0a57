"""How networks are trained: recipes, the loop, the point from which an interrupted training goes on."""
