"""Off-screen rendering: the OpenGL backend, and a fast renderer.

MuJoCo draws small images slowly by default because of shadows, reflections and multisampling, which are hardly visible
at 64x64. All are off here, so images are equal in data, goals and evaluation. Images of different OpenGL
implementations differ, so a data file records `Renderer.get_gl_renderer()`.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import importlib.util
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

_OFF = ("disable", "disabled", "off", "false", "0")
_GLFW = ("enable", "enabled", "on", "true", "1", "glx", "wgl", "glfw")
_FLAGS_OFF = ("SHADOW", "REFLECTION", "HAZE", "SKYBOX", "FOG")
# Software OpenGL is limited by vertices: 16 facets around instead of 28 halve the time of a frame, and at 64x64
# one pixel in a hundred changes.
_QUALITY = {"offsamples": 0, "shadowsize": 0, "numslices": 16, "numstacks": 8, "numquads": 1}

# Names and values of the EGL headers: EGL_PLATFORM_DEVICE_EXT; RENDERABLE_TYPE OPENGL_BIT, SURFACE_TYPE PBUFFER_BIT,
# DEPTH_SIZE 24, NONE.
_EGL_PLATFORM, _EGL_CONFIG = 0x313F, (0x3040, 0x0008, 0x3033, 0x0001, 0x3025, 24, 0x3038)
_CONTEXT_SIZE = (64, 64)  # of a surface that nothing is drawn to: MuJoCo draws to buffers of its own
_THREAD = threading.local()  # its OpenGL context, by backend


def get_install_command() -> str:
    """The command that installs the OpenGL libraries on this machine."""
    if sys.platform != "linux":
        return "pip install --force-reinstall mujoco"
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get") is None:
        if shutil.which("dnf"):
            return f"{sudo}dnf install -y mesa-libEGL mesa-libGL mesa-dri-drivers libglvnd-opengl"
        if shutil.which("pacman"):
            return f"{sudo}pacman -S --noconfirm mesa libglvnd"
    return f"{sudo}apt-get update && {sudo}apt-get install -y libegl1 libgl1 libopengl0 libgl1-mesa-dri"


def choose_backend() -> str:
    """The OpenGL backend, written to MUJOCO_GL unless the user has set it.

    Linux: EGL where a display initialises (a GPU's, or Mesa's without one), else OSMesa. Elsewhere MuJoCo's
    own choice. Call it before MuJoCo is imported. Raises `RuntimeError` when nothing can draw.
    """
    # Threads of Mesa's software rasteriser slow it down at 64x64, and collecting runs one process a core. The image
    # is the same.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if sys.platform != "linux":
        return chosen or ("cgl" if sys.platform == "darwin" else "glfw")
    _load_triton_first()
    if chosen:
        return chosen
    if _egl_works():
        chosen = "egl"
    elif _load_library("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so") is not None:
        chosen = "osmesa"
    else:
        raise RuntimeError(f"no OpenGL for off-screen rendering was found; install it with: {get_install_command()}")
    os.environ["MUJOCO_GL"] = chosen
    return chosen


def _load_triton_first() -> None:
    """Load triton's library before Mesa's, if torch has installed it.

    Both contain an LLVM. If Mesa's is loaded first, the import of triton ends the process (segmentation fault), and
    torch imports triton at an optimiser's first step. The other order works.
    """
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None or "triton" in sys.modules:
        return
    for library in (Path(spec.origin).parent / "_C").glob("libtriton*.so"):
        _load_library(str(library))


def _load_library(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _egl_works() -> bool:
    """Whether a device display initialises and offers desktop OpenGL, by the calls that MuJoCo will make."""
    egl = _load_library("libEGL.so.1", "libEGL.so")
    if egl is None or _load_library("libOpenGL.so.0", "libGL.so.1") is None:
        return False
    pointer = ctypes.c_void_p
    egl.eglGetProcAddress.restype, egl.eglGetProcAddress.argtypes = pointer, (ctypes.c_char_p,)
    egl.eglInitialize.argtypes = (pointer, pointer, pointer)
    egl.eglTerminate.argtypes = (pointer,)
    egl.eglChooseConfig.argtypes = (pointer, pointer, pointer, ctypes.c_int, pointer)
    query_at = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_at = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query_at or not display_at:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query_at)
    get_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display_at)
    devices, count = (pointer * 32)(), ctypes.c_int(0)
    if not query(len(devices), devices, ctypes.byref(count)):
        return False
    attributes = (ctypes.c_int * len(_EGL_CONFIG))(*_EGL_CONFIG)
    for device in devices[: count.value]:
        display = get_display(_EGL_PLATFORM, device, None)
        if not display or not egl.eglInitialize(display, None, None):
            continue
        config, found = pointer(), ctypes.c_int(0)
        chosen = egl.eglChooseConfig(display, attributes, ctypes.byref(config), 1, ctypes.byref(found))
        egl.eglTerminate(display)
        return bool(chosen and found.value)  # MuJoCo takes the first display that initialises
    return False


def _make_context_current() -> Any:
    """The OpenGL context of this thread, current, of the chosen backend, whatever MuJoCo chose when it was imported.

    All renderers of a thread share it: Mesa compiles its shaders anew for each context, in half a second.
    """
    backend = choose_backend()
    if backend in _OFF:
        raise RuntimeError(f"MUJOCO_GL={backend} switches rendering off; unset it to render")
    module = "glfw" if backend in _GLFW else backend
    contexts: dict[str, Any] = _THREAD.__dict__
    try:
        if module not in ("egl", "osmesa", "glfw", "cgl"):
            raise RuntimeError("choices: egl, osmesa, glfw, cgl")
        if module not in contexts:
            contexts[module] = importlib.import_module(f"mujoco.{module}").GLContext(*_CONTEXT_SIZE)
        contexts[module].make_current()
    except Exception as error:  # PyOpenGL's loader raises AttributeError, OSError, GLError and others
        raise RuntimeError(
            f"cannot render with MUJOCO_GL={backend} ({error}); unset it, or install OpenGL: {get_install_command()}"
        ) from error
    return contexts[module]


class Renderer:
    """Draws one camera of a model, off-screen, as uint8 `[H, W, 3]`.

    It sets the model's `vis.quality` and off-screen size, which no physics reads. Raises `RuntimeError` where
    OpenGL does not work, with the command that installs it.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int, camera: str) -> None:
        # Change the scene just before an image is drawn, and the image after it, at a time in seconds (`envs.motion`,
        # `envs.distractors`).
        self.animate: Callable[[mujoco.MjvScene, float], None] | None = None
        self.finish: Callable[[NDArray[np.uint8], float], None] | None = None
        self._gl: Any = _make_context_current()
        # MuJoCo terminates EGL at exit, and a context deleted later fails noisily: functions registered last run first.
        atexit.unregister(_close_renderers)
        atexit.register(_close_renderers)
        _OPEN.add(self)
        import mujoco

        self._mujoco = mujoco
        self._model = model
        for name, value in _QUALITY.items():
            setattr(model.vis.quality, name, value)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        assert camera_id >= 0, (camera, model.ncam)
        self._camera = mujoco.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_id
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 4 * model.nwrap + 16)
        for flag in _FLAGS_OFF:
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._context: Any = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)

    def render(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """A new image `[H, W, 3]`. `data` must have its kinematics up to date."""
        assert self._gl is not None, "render after close"
        mj = self._mujoco
        self._gl.make_current()
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)  # another renderer may have drawn last
        everything = mj.mjtCatBit.mjCAT_ALL
        mj.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        if self.animate is not None:
            self.animate(self._scene, data.time)
        mj.mjr_render(self._rect, self._scene, self._context)
        mj.mjr_readPixels(self._pixels, None, self._rect, self._context)
        frame = self._pixels[::-1].copy()  # OpenGL counts rows from below
        if self.finish is not None:
            self.finish(frame, data.time)
        return frame

    def get_gl_renderer(self) -> str:
        """OpenGL's name of itself (GL_RENDERER), such as "llvmpipe (LLVM 15.0.6, 256 bits)"."""
        assert self._gl is not None, "get_gl_renderer after close"
        from OpenGL import GL

        self._gl.make_current()
        return bytes(GL.glGetString(GL.GL_RENDERER)).decode()

    def close(self) -> None:
        """Free the textures and buffers; afterwards the renderer cannot render."""
        if self._gl is None:
            return
        self._gl.make_current()
        self._context.free()
        self._gl = None

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self.close()


_OPEN: weakref.WeakSet[Renderer] = weakref.WeakSet()


def _close_renderers() -> None:
    """Close all renderers, then free the contexts of this thread."""
    for renderer in list(_OPEN):
        renderer.close()
    while _THREAD.__dict__:
        _THREAD.__dict__.popitem()[1].free()
