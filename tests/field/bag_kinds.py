"""Make small bags as other people have them, from one that our recorder wrote."""

import sqlite3
from pathlib import Path

import yaml
from backports import zstd
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from wam_policy.recording import bag_folder


def read_raw(folder):
    """Return the (topic, type, definition) of every channel, and (channel, time, data)."""
    with AnyReader([folder]) as reader:
        channels = {c.id: c for c in reader.connections}
        messages = [(c.id, time_ns, bytes(raw)) for c, time_ns, raw in reader.messages()]
        return channels, messages, reader.typestore


def write_rosbags(source, target, *, storage=StoragePlugin.SQLITE3, mode=None):
    """Write the messages of a bag with the rosbags package."""
    channels, messages, typestore = read_raw(source)
    writer = Writer(target, version=9, storage_plugin=storage)
    if mode:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        made = {
            key: writer.add_connection(c.topic, c.msgtype, typestore=typestore)
            for key, c in channels.items()
        }
        for key, time_ns, raw in messages:
            writer.write(made[key], time_ns, raw)
    return target


def write_mcap(source, target, *, first=0.0, last=1.0, compression=CompressionType.ZSTD, **other):
    """Write a share of the messages as `ros2 bag` does: chunks, zstd, definitions.

    `rename` maps topics to others, `definitions` False leaves the definitions out.
    """
    with source.open('rb') as stream:
        reader = make_reader(stream)
        messages = list(reader.iter_messages())
    span = slice(int(first * len(messages)), int(last * len(messages)))
    with target.open('wb') as stream:
        writer = McapWriter(stream, chunk_size=200_000, compression=compression)
        writer.start(profile='ros2', library='others')
        made = {}
        for schema, channel, message in messages[span]:
            topic = other.get('rename', {}).get(channel.topic, channel.topic)
            if topic is None:
                continue
            if channel.id not in made:
                data = schema.data if other.get('definitions', True) else b''
                kind = writer.register_schema(schema.name, 'ros2msg', data)
                made[channel.id] = writer.register_channel(topic, 'cdr', kind)
            writer.add_message(
                made[channel.id], message.log_time, message.data, message.publish_time
            )
        writer.finish()
    return target


def compress(path):
    """Replace a file by what zstd makes of it."""
    target = path.with_name(path.name + '.zst')
    target.write_bytes(zstd.compress(path.read_bytes()))
    path.unlink()
    return target


def edit_information(folder, **fields):
    path = folder / bag_folder.METADATA_FILE
    document = yaml.safe_load(path.read_text())
    document['rosbag2_bagfile_information'] |= fields
    path.write_text(yaml.safe_dump(document))


def make_folder(source, target, **options):
    """Write one MCAP file and its metadata.yaml."""
    target.mkdir()
    write_mcap(source, target / f'{target.name}_0.mcap', **options)
    bag_folder.write_metadata(target)
    return target


def make_split(source, target):
    target.mkdir()
    for part in range(11):  # so many that _10 sorts before _2 as text
        file = target / f'{target.name}_{part}.mcap'
        write_mcap(source, file, first=part / 11, last=(part + 1) / 11)
    bag_folder.write_metadata(target)
    return target


def make_split_without_metadata(source, target):
    (make_split(source, target) / bag_folder.METADATA_FILE).unlink()
    return target


def make_split_with_unfinished_end(source, target):
    make_split_without_metadata(source, target)
    truncate(target / f'{target.name}_10.mcap', 0.7)
    return target


def make_split_sqlite(source, target):
    write_rosbags(source.parent, target)
    whole, second = target / f'{target.name}.db3', target / f'{target.name}_1.db3'
    second.write_bytes(whole.read_bytes())
    for path, rule in ((whole, '>'), (second, '<=')):
        with sqlite3.connect(path) as database:
            database.execute(
                f'DELETE FROM messages WHERE timestamp {rule} '
                '(SELECT (min(timestamp) + max(timestamp)) / 2 FROM messages)'
                if path == whole
                else 'DELETE FROM messages WHERE timestamp <= ?',
                () if path == whole else (middle_ns(source.parent),),
            )
    edit_information(target, relative_file_paths=[whole.name, second.name], files=[])
    return target


def middle_ns(folder):
    with AnyReader([folder]) as reader:
        times_ns = [time_ns for _, time_ns, _ in reader.messages()]
    return (min(times_ns) + max(times_ns)) // 2


def make_humble(source, target):
    """Write what Humble's recorder writes: sqlite3, version 5, no definitions, no hashes."""
    write_rosbags(source.parent, target)
    with sqlite3.connect(target / f'{target.name}.db3') as database:
        database.execute('DROP TABLE message_definitions')
        database.execute('UPDATE schema SET schema_version = 3')
        database.execute('ALTER TABLE topics DROP COLUMN type_description_hash')
    path = target / bag_folder.METADATA_FILE
    document = yaml.safe_load(path.read_text())
    about = document['rosbag2_bagfile_information']
    for name in ('custom_data', 'ros_distro'):
        about.pop(name, None)
    for topic in about['topics_with_message_count']:
        topic['topic_metadata'].pop('type_description_hash')
        topic['topic_metadata']['offered_qos_profiles'] = ''
    path.write_text(yaml.safe_dump({'rosbag2_bagfile_information': about | {'version': 5}}))
    return target


def make_file_compressed(source, target, *, listed=True):
    """Write a folder as `--compression-mode file` does; not `listed`: zstd by hand."""
    make_folder(source, target)
    file = compress(target / f'{target.name}_0.mcap')
    if listed:
        edit_information(
            target,
            compression_format='zstd',
            compression_mode='FILE',
            relative_file_paths=[file.name],
        )
    return target


def truncate(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def make_damaged_chunk(source, target, share=0.5):
    """Change a byte of a finished file, as a bad disk does: the chunk that has it is lost."""
    make_folder(source, target, compression=CompressionType.NONE)
    file = target / f'{target.name}_0.mcap'
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 0xFF
    file.write_bytes(content)
    return target


KINDS = {
    'split into files': make_split,
    'split sqlite3': make_split_sqlite,
    'file of a folder': lambda s, t: next(make_folder(s, t).glob('*.mcap')),
    'Humble without definitions': make_humble,
    'MCAP without definitions': lambda s, t: make_folder(s, t, definitions=False),
    'file-compressed': make_file_compressed,
    'file-compressed by hand': lambda s, t: make_file_compressed(s, t, listed=False),
    'file-compressed, the file': lambda s, t: next(make_file_compressed(s, t).glob('*.zst')),
    'file-compressed sqlite3': lambda s, t: write_rosbags(s.parent, t, mode=CompressionMode.FILE),
    'messages compressed': lambda s, t: write_rosbags(s.parent, t, mode=CompressionMode.MESSAGE),
    'messages compressed, the file': lambda s, t: next(
        write_rosbags(s.parent, t, mode=CompressionMode.MESSAGE).glob('*.db3')
    ),
    'sqlite3 without metadata': lambda s, t: drop_metadata(write_rosbags(s.parent, t)),
}


def drop_metadata(folder):
    (folder / bag_folder.METADATA_FILE).unlink()
    return folder


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_incomplete_split(source, target):
    (make_split(source, target) / f'{target.name}_3.mcap').unlink()
    return target


def make_empty_metadata(source, target):
    (make_folder(source, target) / bag_folder.METADATA_FILE).write_bytes(b'')
    return target


# what cannot be read as it is: the maker, and a word of the one sentence that says so
UNREADABLE = {
    'empty MCAP': (lambda s, t: put(t / 'x.mcap', b''), 'x.mcap'),
    'empty sqlite3': (lambda s, t: put(t / 'x.db3', b''), 'x.db3'),
    'empty zstd': (lambda s, t: put(t / 'x.mcap.zst', b''), 'is empty'),
    'text named MCAP': (lambda s, t: put(t / 'x.mcap', b'hello world ' * 99), 'x.mcap'),
    'text named sqlite3': (lambda s, t: put(t / 'x.db3', b'hello world ' * 99), 'x.db3'),
    'another database': (lambda s, t: make_other_database(t), 'missing tables'),
    'messages left in a log': (
        lambda s, t: put(write_rosbags(s.parent, t) / 'theirs.db3-wal', b'x').parent,
        'wal_checkpoint',
    ),
    'truncated zstd': (
        lambda s, t: truncate(next(make_file_compressed(s, t).glob('*.zst'))),
        'zstd --test',
    ),
    'truncated sqlite3': (
        lambda s, t: truncate(next(write_rosbags(s.parent, t).glob('*.db3'))),
        '.recover',
    ),
    'truncated MCAP': (
        lambda s, t: truncate(next(make_folder(s, t).glob('*.mcap'))),
        'bag repair',
    ),
    'damaged chunk': (make_damaged_chunk, 'bag repair'),
    'damaged first chunk': (lambda s, t: make_damaged_chunk(s, t, 0.01), 'bag repair'),
    'MCAP of another system': (lambda s, t: make_protobuf(t), 'not recorded by ROS 2'),
    'a file of a split is missing': (make_incomplete_split, '_3.mcap is missing'),
    'empty metadata.yaml': (make_empty_metadata, 'bag repair'),
    'split without metadata': (make_split_without_metadata, 'bag repair'),
    'split with unfinished end': (make_split_with_unfinished_end, 'bag repair'),
    'ROS 1 bag': (lambda s, t: put(t / 'x.bag', b'#ROSBAG V2.0\n'), 'rosbags-convert'),
    'HDF5 file': (lambda s, t: put(t / 'episode_0.hdf5', b'\x89HDF\r\n'), 'no bag'),
    'folder of pictures': (lambda s, t: put(t / 'a.png', b'\x89PNG').parent, 'no bag'),
    'nothing': (lambda s, t: t, 'does not exist'),
}
REPAIRABLE = (
    'truncated MCAP',
    'damaged first chunk',
    'damaged chunk',
    'empty metadata.yaml',
    'split without metadata',
    'split with unfinished end',
)


def make_protobuf(folder):
    path = put(folder / 'x.mcap', b'')
    with path.open('wb') as stream:
        writer = McapWriter(stream)
        writer.start()
        channel = writer.register_channel('/tf', 'protobuf', 0)
        writer.add_message(channel, 1, b'x', 1)
        writer.finish()
    return path


def make_other_database(folder):
    path = put(folder / 'x.db3', b'')
    with sqlite3.connect(path) as database:
        database.execute('CREATE TABLE songs (name TEXT)')
    return path
