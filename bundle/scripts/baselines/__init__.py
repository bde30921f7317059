"""The field's other models, on the same data lists, folds, guard and scores as the method."""
