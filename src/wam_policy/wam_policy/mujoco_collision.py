"""Find contacts along a path with MuJoCo's collision engine, on the robot's collision.xml.

Notable:
- only kinematics and distances, no dynamics: 10 to 30 us per configuration;
- a segment of the path is free if the distances at its ends together exceed the motion of any part
  on it, so a path far from everything needs only a few configurations;
- close to contact the segment is halved, down to the given rows;
- pairs that are too close in the first row may move apart, but not approach.
"""

from pathlib import Path

import mujoco
import numpy as np

from wam_policy.core.motion.collision_check import Contact
from wam_policy.core.robot.embodiment import ROBOTS_DIR, Embodiment

LINK, HAND, BODY, TABLE = 0, 1, 2, 3  # geom groups of collision.xml
MAX_DISTANCE_M = 0.12  # larger distances are not computed
ROUNDING_M = 1e-6
NO_PAIRS = np.zeros(0, np.int64), np.zeros(0)  # numbers and distances of close pairs


class MujocoCollisionChecker:
    """Collision checker of one robot, for use by one thread."""

    def __init__(
        self,
        robot: Embodiment,
        *,
        table: bool = True,
        table_height_m: float | None = None,
        folder: Path = ROBOTS_DIR,
    ) -> None:
        """Load the robot's collision model; raises ValueError if it is missing or does not match.

        `table_height_m` moves the top of the model's table; without `table` there is none.
        """
        path = folder / robot.name / 'collision.xml'
        try:
            self._model = model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise ValueError(
                f'{path}: cannot load the collision model: {error}; for a simulated robot '
                f'run python -m wam_sim.physics.collision {robot.name}'
            ) from error
        self._data = mujoco.MjData(model)
        self._qpos, self._geom_positions = self._data.qpos, self._data.geom_xpos
        self._geom_count = model.ngeom
        # looked up once, because MuJoCo's accessors by number take 1 ms
        self._geom_names = [
            model.geom(geom).name or model.body(body).name
            for geom, body in enumerate(model.geom_bodyid)
        ]
        self._config = robot.safety.contact
        self._place_table(table, table_height_m)
        # MuJoCo adds up both margins
        model.geom_margin[:] = MAX_DISTANCE_M / 2
        self._commanded_to_qpos, self._reach, moved = self._map_commanded_joints(robot, path)
        self._limbs, self._pair_groups = _group_limbs(moved)
        state_only = robot.observed[len(robot.commanded) :]
        self._state_only_to_qpos = np.zeros((len(state_only), model.nq))
        for row, name in enumerate(state_only):
            self._state_only_to_qpos[row, self._find_qpos_address(name, path)] = 1.0
        self._min_distances = self._compute_min_distances()
        self._hand_geoms = np.flatnonzero(model.geom_group == HAND)
        low, high = (np.array(self._config.hands_within_m[i::2]) for i in (0, 1))
        self._workspace_center, self._workspace_half_size = (low + high) / 2, (high - low) / 2
        self.query_count = 0  # configurations checked, for benchmarks

    def find_first_contact(
        self, path: np.ndarray, state_only_positions: np.ndarray
    ) -> Contact | None:
        """Return the first contact along `path` [rows commanded], or None.

        `state_only_positions` [state-only joints] is how the rest of the robot stands.
        """
        found = _FirstContactSearch(
            self, self.to_qpos(path, state_only_positions), self._compute_travel(path)
        ).find_first()
        return None if found is None else Contact(*found)

    def locate_pair(
        self, positions: np.ndarray, state_only_positions: np.ndarray, pair: str
    ) -> np.ndarray:
        """Return where the parts of a contact are nearest at `positions` [commanded], m, [3].

        Raises ValueError if they are further apart than MAX_DISTANCE_M.
        """
        (qpos,) = self.to_qpos(positions[None], state_only_positions)
        numbers, distances, _ = self.compute_distances(qpos)
        for row in np.argsort(distances):
            if self.pair_name(int(numbers[row])) == pair:
                return self._data.contact.pos[row].copy()
        for number, geom in enumerate(self._hand_geoms):
            if self.pair_name(-1 - number) == pair:
                return self._geom_positions[geom].copy()
        raise ValueError(f'{pair}: not within {MAX_DISTANCE_M} m of each other')

    def to_qpos(self, path: np.ndarray, state_only_positions: np.ndarray) -> np.ndarray:
        """Return qpos [rows nq] of configurations [rows commanded]."""
        return path @ self._commanded_to_qpos + state_only_positions @ self._state_only_to_qpos

    def compute_distances(self, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return numbers and distances (m) of close pairs, and of hands to the workspace, m."""
        self.query_count += 1
        model, data = self._model, self._data
        self._qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        # 50 configurations per plan: stored views and a plain ufunc save a quarter of numpy's time
        inside = self._workspace_half_size - np.abs(
            self._geom_positions[self._hand_geoms] - self._workspace_center
        )
        walls = np.minimum.reduce(inside, axis=1)
        if not data.ncon:
            return *NO_PAIRS, walls
        contact = data.contact
        geom = contact.geom
        return geom[:, 0] * self._geom_count + geom[:, 1], contact.dist, walls

    def link_position(self, link: str) -> np.ndarray:
        """Return the position of a link in the last configuration, m, [3]."""
        return self._data.body(link).xpos.copy()

    @property
    def min_distances(self) -> np.ndarray:
        """Return the smallest allowed distance of each pair, m, by pair number."""
        return self._min_distances.copy()

    def pair_name(self, pair: int) -> str:
        """Return the names of a pair; -1 - i: the i-th hand geom and the workspace."""
        if pair < 0:
            return (
                f'{self._geom_names[self._hand_geoms[-1 - pair]]} and the limit of the workspace'
            )
        first, second = sorted(divmod(pair, self._geom_count), reverse=True)
        return f'{self._geom_names[first]} and {self._geom_names[second]}'

    def _compute_travel(self, path: np.ndarray) -> np.ndarray:
        """Return the largest possible approach of each sort of pairs up to each row, m.

        float64 [rows sorts]: a limb moves against itself and what stands, and against another.
        """
        steps = np.abs(np.diff(path, axis=0)) * self._reach @ self._limbs.T
        steps = np.column_stack([steps, steps.sum(axis=1)])
        return np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)])

    @property
    def pair_groups(self) -> tuple[int, np.ndarray]:
        """Return the number of sorts of pairs, and the sort of each pair by its number."""
        return len(self._limbs) + 1, self._pair_groups

    def _place_table(self, present: bool, height_m: float | None) -> None:
        model = self._model
        tables = np.flatnonzero(model.geom_group == TABLE)
        if not present:
            model.geom_contype[tables] = 0
        elif height_m is not None:
            foot_m = model.geom_pos[tables, 2] - model.geom_size[tables, 2]
            if (height_m <= foot_m).any():
                raise ValueError(
                    f'table_height_m: {height_m:g} lies below the foot of the table '
                    f'at {foot_m.max():g} m'
                )
            model.geom_size[tables, 2] = (height_m - foot_m) / 2
            model.geom_pos[tables, 2] = (height_m + foot_m) / 2
            for table in tables:  # its bounding sphere and box are the compiler's
                half = model.geom_size[table]
                model.geom_rbound[table] = np.linalg.norm(half)
                model.geom_aabb[table, 3:] = half

    def _map_commanded_joints(
        self,
        robot: Embodiment,
        path: Path,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the map from commanded joints to qpos, [commanded nq], and the moved geoms.

        Their reach, m per unit, [commanded], and the geoms they move, bool [commanded geoms].
        """
        model = self._model
        columns = np.zeros((len(robot.commanded), model.nq))
        reach = np.zeros(len(robot.commanded))
        moved = np.zeros((len(robot.commanded), model.ngeom), dtype=bool)
        fingers = {model.tendon(i).name: i for i in range(model.ntendon)}
        for row, name in enumerate(robot.commanded):
            travels: list[tuple[int, float]] = []
            if name in fingers:  # its length is the opening, shared by its joints
                first, count = model.tendon_adr[fingers[name]], model.tendon_num[fingers[name]]
                travels = [
                    (int(model.wrap_objid[wrap]), 1.0 / (count * model.wrap_prm[wrap]))
                    for wrap in range(first, first + count)
                ]
            elif robot.joint(name).kind != 'gripper':
                self._find_qpos_address(name, path)
                travels = [(model.joint(name).id, 1.0)]
            for joint, travel in travels:
                columns[row, model.jnt_qposadr[joint]] = travel
                reach[row] += abs(travel) * _compute_reach(model, joint)
                moved[row] |= np.isin(
                    model.geom_bodyid, _find_subtree(model, model.jnt_bodyid[joint])
                )
        return columns, reach, moved

    def _find_qpos_address(self, name: str, path: Path) -> int:
        try:
            return int(self._model.joint(name).qposadr[0])
        except KeyError as error:
            raise ValueError(f'{path} has no joint {name}; generate it again') from error

    def _compute_min_distances(self) -> np.ndarray:
        """Return the smallest allowed distance of each pair, m, [geoms * geoms]."""
        group, rule = self._model.geom_group, self._config
        clearances = np.full((len(group), len(group)), rule.self_m)
        for kind, clearance in ((LINK, rule.link_m), (HAND, rule.hand_m)):
            clearances[np.ix_(group == kind, group == TABLE)] = clearance
            clearances[np.ix_(group == TABLE, group == kind)] = clearance
        return clearances.ravel()


def _group_limbs(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group joints that move common geoms; `moved` bool [joints geoms].

    Return the limbs, bool [limbs joints], and the sort of each pair of geoms by its number: its
    limb, or the last sort for two limbs.
    """
    limbs: list[np.ndarray] = []  # bool [geoms] each
    for geoms in moved[moved.any(axis=1)]:
        geoms = geoms.copy()
        apart = []
        for limb in limbs:
            if (limb & geoms).any():
                geoms |= limb
            else:
                apart.append(limb)
        limbs = [*apart, geoms]
    members = np.array([(moved & limb).any(axis=1) for limb in limbs])
    limb_of = np.full(moved.shape[1], -1)
    for number, limb in enumerate(limbs):
        limb_of[limb] = number
    first, second = limb_of[:, None], limb_of[None]
    two = (first != second) & (first >= 0) & (second >= 0)
    return members, np.where(two, len(limbs), np.maximum(np.maximum(first, second), 0)).ravel()


def _find_subtree(model: mujoco.MjModel, base: int) -> list[int]:
    """Return a body and its descendants; parents come first in the model."""
    bodies = {int(base)}
    for body in range(int(base) + 1, model.nbody):
        if int(model.body_parentid[body]) in bodies:
            bodies.add(body)
    return sorted(bodies)


def _compute_reach(model: mujoco.MjModel, joint: int) -> float:
    """Return the largest distance of a part from a joint's axis, m; 1 for a slide joint."""
    if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE:
        return 1.0
    base, farthest = int(model.jnt_bodyid[joint]), 0.0
    # sum of the lengths of the links in between, plus the extent of the last one
    far = {base: (0.0, np.zeros(3), np.eye(3))}
    for body in _find_subtree(model, base):
        if body != base:
            reach, at, turn = far[int(model.body_parentid[body])]
            at = at + turn @ model.body_pos[body]
            frame = np.empty(9)
            mujoco.mju_quat2Mat(frame, model.body_quat[body])
            turn = turn @ frame.reshape(3, 3)
            joints = range(
                model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body]
            )
            if len(joints):
                slack = sum(
                    np.ptp(model.jnt_range[j])
                    for j in joints
                    if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_SLIDE
                )
                reach, at, turn = reach + float(np.linalg.norm(at)) + slack, np.zeros(3), np.eye(3)
            far[body] = (reach, at, turn)
        reach, at, turn = far[body]
        for geom in np.flatnonzero(model.geom_bodyid == body):
            out = at + turn @ model.geom_pos[geom]
            if not reach:  # no rotation in between: the distance from the axis counts
                out = out - model.jnt_axis[joint] * (model.jnt_axis[joint] @ out)
            farthest = max(farthest, reach + float(np.linalg.norm(out)) + model.geom_rbound[geom])
    return farthest


class _FirstContactSearch:
    """Search for the first contact along one path."""

    def __init__(
        self, checker: MujocoCollisionChecker, path: np.ndarray, travel: np.ndarray
    ) -> None:
        """Take the path [rows nq] and the approach up to each row [rows sorts], m."""
        self.checker, self.path, self.travel = checker, path, travel
        self.group_count, self.pair_groups = checker.pair_groups
        self.min_distances = checker.min_distances
        # slack of pairs beyond MAX_DISTANCE_M
        self.unseen_slack_m = MAX_DISTANCE_M - float(self.min_distances.max())
        pairs, gaps, walls = checker.compute_distances(path[0])
        np.minimum.at(self.min_distances, pairs, gaps)
        self.min_wall_distances = np.minimum(walls, 0.0)
        self.slack_by_row = {0: self._compute_slack(pairs, gaps, walls)}

    def find_first(self) -> tuple[int, str] | None:
        """Return the row and the pair of the first contact, or None.

        Up to row `low` everything is free; `ends` are the right ends of what is to be looked
        into, the nearest one last.
        """
        low, ends = 0, [len(self.path) - 1]
        while ends:
            high = ends[-1]
            slack, what = self._slack_at(high)
            touching = slack.min() < -ROUNDING_M
            if touching:
                ends = [high]  # later contacts are not needed
            if touching and high <= low + 1:
                return high, self.checker.pair_name(what)
            if not touching and (high <= low + 1 or self._is_free(low, high)):
                low = ends.pop()
            else:
                ends.append((low + high) // 2)
        return None

    def _is_free(self, low: int, high: int) -> bool:
        way = self.travel[high] - self.travel[low]
        return bool((self._slack_at(low)[0] + self._slack_at(high)[0] >= way).all())

    def _slack_at(self, row: int) -> tuple[np.ndarray, int]:
        """Return the largest approach per row of each sort of pairs, m, and their maximum."""
        if row not in self.slack_by_row:
            self.slack_by_row[row] = self._compute_slack(
                *self.checker.compute_distances(self.path[row])
            )
        return self.slack_by_row[row]

    def _compute_slack(
        self, pairs: np.ndarray, distances: np.ndarray, walls: np.ndarray
    ) -> tuple[np.ndarray, int]:
        slack, worst, what = np.full(self.group_count, self.unseen_slack_m), self.unseen_slack_m, 0
        if len(walls):
            left = walls - self.min_wall_distances
            hand = int(left.argmin())
            if left[hand] < worst:
                slack[:-1], worst, what = left[hand], float(left[hand]), -1 - hand
        if len(distances):
            left = distances - self.min_distances[pairs]
            np.minimum.at(slack, self.pair_groups[pairs], left)
            near = int(left.argmin())
            if left[near] < worst:
                what = int(pairs[near])
        return slack, what
