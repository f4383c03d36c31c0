"""Images in, frames out: every encoding that cameras send, every broken message refused."""

import sys
from array import array

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image

from wam_policy.nodes.images import bridge_selection, image_conversion, image_transport
from wam_policy.nodes.images.opencv_bridge import CvBridge, CvBridgeError

pytestmark = pytest.mark.ros
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
STAMP = Time(sec=12, nanosec=345)


def encode_png(pixels):
    return cv2.imencode('.png', pixels)[1].tobytes()


def make_image_msg(encoding='rgb8', pixels=PIXELS, padding=0, **changes):
    height, width, channels = pixels.shape
    rows = np.full((height, width * channels + padding), 99, np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    msg = Image(
        height=height,
        width=width,
        encoding=encoding,
        step=rows.shape[1],
        data=array('B', rows.tobytes()),
    )
    msg.header.stamp = STAMP
    for field, value in changes.items():
        setattr(msg, field, value)
    return msg


@pytest.mark.parametrize('padding', [0, 7])
@pytest.mark.parametrize(
    ('encoding', 'order'),
    [('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0]), ('rgba8', [0, 1, 2, 3]), ('bgra8', [2, 1, 0, 3])],
)
def test_every_colour_order_and_row_padding_gives_the_same_pixels(encoding, order, padding):
    alpha = np.full((6, 5, 1), 7, np.uint8)
    pixels = np.concatenate([PIXELS, alpha], axis=2)[..., order]
    frame = image_conversion.frame_from_msg(make_image_msg(encoding, pixels, padding), 'top')
    assert np.array_equal(frame.rgb, PIXELS)
    assert (frame.camera, frame.stamp_ns) == ('top', 12_000_000_345)


def test_unpadded_rgb_is_not_copied():
    msg = make_image_msg()
    frame = image_conversion.frame_from_msg(msg, 'top')
    msg.data[0] ^= 255
    assert frame.rgb[0, 0, 0] == PIXELS[0, 0, 0] ^ 255


@pytest.mark.parametrize(
    ('msg', 'complaint'),
    [
        (make_image_msg('mono8'), "encoding 'mono8' has no color.* allow_mono_images"),
        (make_image_msg('16UC1'), "'16UC1' is a depth image or has other than 8 bits"),
        (make_image_msg('mono16'), "'mono16' is a depth image or has other than 8 bits"),
        (make_image_msg('32FC1'), "'32FC1' is a depth image or has other than 8 bits"),
        (make_image_msg('rgb16'), "'rgb16' is not one of these .* want rgb8, bgr8"),
        (make_image_msg('bayer_rggb16'), "'bayer_rggb16' is not one of these"),
        (make_image_msg(''), "encoding ''"),
        (make_image_msg('yuv422', step=10, width=5, data=array('B', bytes(60))), '5x6 yuv422'),
        (make_image_msg(data=array('B', [1, 2, 3])), '3 bytes of data, want 6 rows of 15'),
        (make_image_msg(data=array('B')), '0 bytes of data'),
        (make_image_msg(step=14), 'does not fit a step of 14'),
        (make_image_msg(width=0), 'does not fit'),
        (make_image_msg(height=0), 'does not fit'),
        (make_image_msg(height=7), 'want 7 rows'),
        (make_image_msg(width=6), 'does not fit a step of 15'),
    ],
)
def test_broken_images_are_refused(msg, complaint):
    with pytest.raises(ValueError, match=f'camera top: .*{complaint}'):
        image_conversion.frame_from_msg(msg, 'top')


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_compressed_images(suffix):
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None], (1, 32, 3)).copy()
    smooth[..., 2] //= 2
    data = cv2.imencode(suffix, smooth[..., ::-1])[1].tobytes()
    msg = CompressedImage(format=f'rgb8; {suffix[1:]} compressed bgr8', data=array('B', data))
    msg.header.stamp = STAMP
    frame = image_conversion.frame_from_compressed_msg(msg, 'top')
    assert frame.stamp_ns == 12_000_000_345
    assert np.abs(frame.rgb.astype(int) - smooth).max() <= (0 if suffix == '.png' else 12)


@pytest.mark.parametrize(
    ('form', 'data', 'complaint'),
    [
        ('jpeg', b'', '0 bytes'),
        ('jpeg', b'not an image', 'not a readable JPEG or PNG'),
        ('16UC1; compressedDepth png', b'x', 'depth image'),
        ('h264', b'x', "'h264' are packets of a video; want single JPEG or PNG"),
        ('png', encode_png(np.zeros((2, 2), np.uint16)), 'has 16 bits per value'),
        ('png', encode_png(np.zeros((2, 2), np.uint8)), 'has no color'),
    ],
)
def test_broken_compressed_images_are_refused(form, data, complaint):
    with pytest.raises(ValueError, match=f'camera top: .*{complaint}'):
        image_conversion.frame_from_compressed_msg(
            CompressedImage(format=form, data=array('B', data)), 'top'
        )


def test_published_image_is_what_a_subscriber_reads():
    msg = image_conversion.image_to_msg(PIXELS[:, ::-1], 12_000_000_345, 'top_optical_frame')
    assert (msg.encoding, msg.step, msg.header.frame_id) == ('rgb8', 15, 'top_optical_frame')
    assert isinstance(msg.data, array) and msg.data.typecode == 'B'
    frame = image_conversion.frame_from_msg(msg, 'top')
    assert np.array_equal(frame.rgb, PIXELS[:, ::-1]) and frame.stamp_ns == 12_000_000_345


def make_patches():
    """Return 16x16 pixels of four colors: even where chroma is halved, and no color twice."""
    colors = np.array([[[200, 100, 50], [50, 180, 90]], [[90, 60, 210], [140, 140, 30]]], np.uint8)
    return colors.repeat(8, axis=0).repeat(8, axis=1)


def split_ycbcr(rgb):
    """Return Y, Cb and Cr after ITU-R BT.601, in its limited range, as uint8 [height width]."""
    r, g, b = np.moveaxis(rgb.astype(float) / 255, -1, 0)
    planes = (
        16 + 65.481 * r + 128.553 * g + 24.966 * b,
        128 - 37.797 * r - 74.203 * g + 112.0 * b,
        128 + 112.0 * r - 93.786 * g - 18.214 * b,
    )
    return [np.round(plane).astype(np.uint8) for plane in planes]


def pack_uyvy(rgb, luma_first=False):
    y, cb, cr = split_ycbcr(rgb)
    chroma = np.where(np.arange(y.shape[1]) % 2, cr, cb)
    return np.stack([y, chroma] if luma_first else [chroma, y], axis=-1)


def pack_half_chroma(rgb, red_first=False):
    y, cb, cr = (plane for plane in split_ycbcr(rgb))
    pair = [plane[::2, ::2] for plane in ((cr, cb) if red_first else (cb, cr))]
    return np.concatenate([y, np.stack(pair, axis=-1).reshape(-1, y.shape[1])])[..., None]


def pack_bayer(rgb, pattern):
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for i, color in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, 'rgb'.index(color)]
    return mosaic[..., None]


PACKED = {
    '8UC3': lambda rgb: rgb[..., ::-1],
    '8UC4': lambda rgb: np.dstack([rgb[..., ::-1], rgb[..., :1]]),
    'yuv422': pack_uyvy,
    'uyvy': pack_uyvy,
    'yuv422_yuy2': lambda rgb: pack_uyvy(rgb, luma_first=True),
    'yuyv': lambda rgb: pack_uyvy(rgb, luma_first=True),
    'nv12': pack_half_chroma,
    'nv21': lambda rgb: pack_half_chroma(rgb, red_first=True),
    **{
        f'bayer_{pattern}8': lambda rgb, pattern=pattern: pack_bayer(rgb, pattern)
        for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
    },
}


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', PACKED)
def test_what_cameras_send_is_converted(encoding, padding):
    """Big-endian, too: that says nothing about 8-bit values."""
    rgb = make_patches()
    packed = np.ascontiguousarray(PACKED[encoding](rgb))
    msg = make_image_msg(encoding, packed, padding, height=16, is_bigendian=1)
    found = image_conversion.frame_from_msg(msg, 'top').rgb.astype(int)
    assert found.shape == rgb.shape
    inside = np.ix_([3, 4, 11, 12], [3, 4, 11, 12])  # a mosaic mixes the edges of patches
    assert np.abs(found - rgb)[inside].max() <= 3


def test_gray_is_taken_if_it_is_allowed():
    gray = PIXELS[..., :1]
    for encoding in ('mono8', '8UC1'):
        frame = image_conversion.frame_from_msg(make_image_msg(encoding, gray), 'top', True)
        assert np.array_equal(frame.rgb, np.repeat(gray, 3, axis=2))
    msg = CompressedImage(format='png', data=array('B', encode_png(gray)))
    frame = image_conversion.frame_from_compressed_msg(msg, 'top', allow_mono=True)
    assert np.array_equal(frame.rgb, np.repeat(gray, 3, axis=2))


# --- the interface of cv_bridge ---


def test_the_interface_of_cv_bridge_holds_its_values():
    bridge = CvBridge()
    assert bridge.encoding_to_dtype_with_channels('bgr8') == ('uint8', 3)
    assert bridge.encoding_to_dtype_with_channels('32FC2') == ('float32', 2)
    assert bridge.encoding_to_cvtype2('16UC1') == cv2.CV_16UC1
    assert bridge.cvtype_to_name[bridge.encoding_to_cvtype2('yuv422')] == '8UC2'
    assert bridge.dtype_with_channels_to_cvtype2(np.dtype('float64'), 4) == '64FC4'
    with pytest.raises(CvBridgeError, match='Unrecognized image encoding .rgb9.'):
        bridge.encoding_to_cvtype2('rgb9')
    with pytest.raises(CvBridgeError, match='incompatible type 8UC3'):
        bridge.cv2_to_imgmsg(PIXELS, 'mono8')
    with pytest.raises(TypeError, match='not a numpy array'):
        bridge.cv2_to_imgmsg([1, 2])
    with pytest.raises(CvBridgeError, match='wrongly formed'):
        bridge.imgmsg_to_cv2(make_image_msg(step=10))


@pytest.mark.parametrize(
    ('dtype', 'channels', 'encoding'),
    [('uint8', 3, 'rgb8'), ('uint8', 1, 'mono8'), ('uint16', 1, '16UC1'), ('float32', 2, '32FC2')],
)
@pytest.mark.parametrize('order', ['<', '>'])
def test_images_survive_the_round_trip_in_both_byte_orders(dtype, channels, encoding, order):
    bridge = CvBridge()
    shape = (4, 6) if channels == 1 else (4, 6, channels)
    image = RNG.integers(0, 250, shape).astype(np.dtype(dtype).newbyteorder(order))
    for name in (encoding, 'passthrough'):
        msg = bridge.cv2_to_imgmsg(image, name)
        found = bridge.imgmsg_to_cv2(msg)
        assert found.dtype.name == dtype and np.array_equal(found, image)


def test_depth_is_scaled_and_colors_change_as_upstream_does():
    bridge = CvBridge()
    msg = bridge.cv2_to_imgmsg(PIXELS, 'bgr8')
    wide = bridge.imgmsg_to_cv2(msg, 'rgb16')
    assert wide.dtype == np.uint16 and np.array_equal(wide, PIXELS[..., ::-1].astype(int) * 257)
    back = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(wide, 'rgb16'), 'bgr8')
    assert np.array_equal(back, PIXELS)
    assert bridge.imgmsg_to_cv2(msg, '8UC3') is not None  # the type alone
    with pytest.raises(CvBridgeError, match='no color format'):
        bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(PIXELS), 'rgb8')
    small = bridge.cv2_to_compressed_imgmsg(PIXELS, 'png')
    assert np.array_equal(bridge.compressed_imgmsg_to_cv2(small), PIXELS)
    assert np.array_equal(bridge.compressed_imgmsg_to_cv2(small, 'rgb8'), PIXELS[..., ::-1])


INSTALLED = {
    'works': ('from wam_policy.nodes.images.opencv_bridge import CvBridge\n', 'installed ('),
    'does not import': (
        'raise AttributeError("_ARRAY_API not found")\n',
        'does not run: AttributeError: _ARRAY_API not found',
    ),
    'crashes': ('import os\nos.abort()\n', 'does not run: it ends the process with SIGABRT'),
    'gives wrong pixels': (
        'class CvBridge:\n    def imgmsg_to_cv2(self, msg, encoding):\n        return 0\n',
        'does not run: ValueError: bgr8 converted to rgb8 has wrong pixels',
    ),
}


@pytest.mark.parametrize('case', INSTALLED)
def test_an_installed_bridge_that_does_not_run_is_replaced(case, tmp_path, monkeypatch):
    code, words = INSTALLED[case]
    folder = tmp_path / 'cv_bridge'
    (folder / 'boost').mkdir(parents=True)
    (folder / '__init__.py').write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', ':'.join(sys.path))
    monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
    selected = bridge_selection.select_bridge.__wrapped__()
    sys.modules.pop('cv_bridge', None)
    assert words in selected.description
    assert selected.is_replaced == (case != 'works')
    assert np.array_equal(
        selected.bridge.imgmsg_to_cv2(make_image_msg('bgr8'), 'rgb8'), PIXELS[..., ::-1]
    )


# --- transports ---


def test_a_topic_or_a_parameter_names_the_transport():
    resolve = image_transport.resolve_camera_topic
    assert resolve('/top/image_raw', 'raw') == ('/top/image_raw', Image)
    compressed = ('/top/image_raw/compressed', CompressedImage)
    assert resolve('/top/image_raw', 'compressed') == compressed
    assert resolve('/top/image_raw/compressed', 'raw') == compressed
    with pytest.raises(ValueError, match="image_transport: want raw or compressed, got 'jpeg'"):
        resolve('/top', 'jpeg')
    for name, words in (
        ('compressedDepth', 'are depth images; .* name the color topic'),
        ('theora', 'are packets of a video; .* republish theora compressed'),
        ('ffmpeg', 'are packets of a video; .* republish ffmpeg compressed'),
    ):
        with pytest.raises(ValueError, match=f'image_transport: {name} {words}'):
            resolve('/top', name)
        with pytest.raises(ValueError, match=f'topic /top/{name}: {name} {words}'):
            resolve(f'/top/{name}', 'raw')


class Graph:
    """Stand for a node: what is published."""

    def __init__(self, **topics):
        self._topics = topics

    def resolve_topic_name(self, name):
        return name

    def get_topic_names_and_types(self):
        return [(f'/{name}'.replace('__', '/'), [kind]) for name, kind in self._topics.items()]

    def count_publishers(self, name):
        return 1


@pytest.mark.parametrize(
    ('topics', 'transport', 'words'),
    [
        ({}, 'raw', ''),
        ({'top': 'sensor_msgs/msg/Image'}, 'raw', ''),
        ({'top': 'sensor_msgs/msg/Image'}, 'compressed', 'set image_transport to raw'),
        ({'top__compressed': 'x'}, 'raw', 'set image_transport to compressed'),
        ({'top__ffmpeg': 'x'}, 'raw', 'only /top/ffmpeg is published: ffmpeg are packets'),
        (
            {'top': 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'},
            'raw',
            'FFMPEGPacket (ffmpeg are packets of a video; want raw or compressed',
        ),
        ({'top': 'sensor_msgs/msg/CompressedImage'}, 'raw', 'want sensor_msgs/msg/Image'),
    ],
)
def test_a_silent_camera_is_explained_by_what_else_is_published(topics, transport, words):
    topic, kind = image_transport.resolve_camera_topic('/top', transport)
    found = image_transport.describe_publishers(Graph(**topics), topic, kind)
    assert words in found and bool(words) == bool(found)
