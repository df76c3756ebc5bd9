"""What holds for every figure."""

from matplotlib.backends.backend_agg import FigureCanvasAgg


def check_texts(figure):
    """No text leaves the figure or lies on another one."""
    FigureCanvasAgg(figure).draw()
    texts = []
    for ax in figure.axes:
        texts += [ax._left_title, ax.xaxis.label, ax.yaxis.label]
        texts += [] if ax.get_legend() is None else ax.get_legend().get_texts()
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            shown = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label1 for tick in shown if tick.label1.get_visible()]
    texts = [text for text in texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) > 3
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, texts[i]
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, texts[i]
        assert not [texts[k] for k in range(i) if box.overlaps(boxes[k])], texts[i]
