"""What others have made, taken in where the method would make it: models, document vectors, a
teacher's query vectors.
"""
