"""Train a small CNN and prune it as it learns: after every epoch, weights below 0.01 are removed for good.

python examples/article_cnn.py                  # scikit-learn's digits
python examples/article_cnn.py fashion-mnist    # or the path of an .npz file with x and y
"""

import sys

import secateur as sc
from secateur.nn import Adam, Conv2D, Dense, Flatten, MaxPool2D, Sequential


def make_model() -> Sequential:
    return Sequential(
        [
            Conv2D(32, 3, activation="relu"),
            MaxPool2D(2),
            Conv2D(64, 3, activation="relu"),
            MaxPool2D(2),
            Flatten(),
            Dense(64, activation="relu"),
            Dense(10),
        ]
    )


def train(model, x, y, epochs=10, threshold=0.01):
    optimizer = Adam()
    for epoch in range(epochs):
        history = model.fit(x, y, batch_size=32, optimizer=optimizer, shuffle=True, random_state=epoch)
        sc.dynamic_pruning(model, threshold)
        left = model.num_parameters(nonzero=True)
        print(f"epoch {epoch + 1}: accuracy {history['accuracy'][-1]:.4f}, {left:,} parameters left")


def main(data="digits", epochs=10):
    (x_train, y_train), (x_test, y_test) = sc.datasets.load(data)
    model = make_model().build(x_train.shape[1:], random_state=0)
    train(model, x_train, y_train, epochs)
    print(f"test accuracy {model.evaluate(x_test, y_test)['accuracy']:.4f}")
    plan = sc.compile(model)
    print(plan.explain(batch=32))
    return model


if __name__ == "__main__":
    main(*sys.argv[1:2])
