"""When is gradient descent guaranteed, at what width and in how many steps?"""
