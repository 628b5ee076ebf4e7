"""The course: exercises that mark themselves.

An exercise is a file to fill in, with three hints and a judge. ``check_file`` runs a learner's file in a
process of its own and returns the marks; ``exercises()`` lists what there is.

    marks = check_file("softmax_jacobian.py")
    marks.passed, marks.points, marks.mistakes, marks.to_json()
"""

from cnn.course.exercise import Exercise, exercises, find_exercise
from cnn.course.marks import Marks, Trial
from cnn.course.runner import check_file

__all__ = ["Exercise", "Marks", "Trial", "check_file", "exercises", "find_exercise"]
